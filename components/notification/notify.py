"""Final records of a run, and notification of its end: always in the log, and to the configured recipients."""

import threading
import time
from collections.abc import Sequence

from components.notification.senders import DeliveryRejected, DeliveryUnavailable, Message, Recipient
from components.scorer import quoting
from components.scorer.run import decision, step_status
from components.scorer.run.paths import RunPaths

TIME_LIMIT = 45.0
"""Time limit of all notifications together, retries included, in seconds: a run never waits a minute for them."""

_ATTEMPTS = 3
_RETRY_PAUSE = 2.0  # seconds before the second attempt, twice that before the third
_GREEN, _AMBER, _RED = "#2e7d32", "#b26a00", "#c62828"


def notify(
    state: str, run_paths: RunPaths, *, message: str = "", run_name: str = "", recipients: Sequence[Recipient] = ()
) -> None:
    """Notify people how the run ended: its name and state, failed step, verdict with reason, and published version.

    If no step wrote the run's ``decision.json``, it is written here. It says "failed" if a scorer was to be published
    and was not. A failed recipient is logged and fails nothing. Addresses and passwords are secrets and never printed.

    Args:
        state: State of the run's steps, as Kubeflow passes it to the exit handler.
        run_paths: Paths of the run.
        message: Kubeflow's own error message.
        run_name: Display name of the run.
        recipients: Recipients besides the log, notified concurrently.
    """
    try:
        run_summary = step_status.summarize_run(run_paths, state, message)
        _write_final_decision(run_paths, run_summary)
    except Exception as error:  # even if the records are damaged, the state is reported
        reason = f"its records cannot be read: {quoting.one_line(error)}"
        run_summary = step_status.RunSummary(run_paths.run, state.lower(), reason=reason)
    facts_by_name = run_facts(run_summary, run_name)
    print("notification: " + "; ".join(f"{name} {value}" for name, value in facts_by_name.items()), flush=True)
    verdict = run_summary.decision["verdict"] if run_summary.decision else "unknown"
    for result in _notify_all(
        recipients,
        Message(run_summary.run, verdict, _title(facts_by_name), facts_by_name, _colour(run_summary, verdict)),
    ):
        print(f"notification: {result}", flush=True)


def _write_final_decision(run_paths: RunPaths, run_summary: step_status.RunSummary) -> None:
    """Write the run's final decision, unless it is already written."""
    if run_summary.decision is None or run_summary.decision == decision.read(run_paths.decision):
        return
    try:
        decision.write(run_paths.decision, run_summary.decision)
    except OSError as error:
        print(f"notification: the decision could not be written: {quoting.one_line(error)}", flush=True)


def run_facts(run_summary: step_status.RunSummary, run_name: str = "") -> dict[str, str]:
    """Return the facts about a run by their short names, without empty ones.

    The verdict begins with its own word: published, forced, refused, skipped or failed.
    """
    facts_by_name = {
        "run": f"{run_name} ({run_summary.run})" if run_name else run_summary.run,
        "state": run_summary.state,
        "failed step": run_summary.step,
        "reason": run_summary.reason,
        "verdict": run_summary.verdict or "unknown",
        "warnings": " ".join(run_summary.decision["warnings"]) if run_summary.decision else "",
        "published": run_summary.published or "not published",
        "report": run_summary.report,
    }
    return {name: value for name, value in facts_by_name.items() if value}


def _title(facts_by_name: dict[str, str]) -> str:
    """Return the facts in one line."""
    names = ("verdict", "published") if facts_by_name["state"] == "succeeded" else ("failed step", "reason")
    outcome = [facts_by_name[name] for name in names if name in facts_by_name]
    return "; ".join([f"Portrait scorer: run {facts_by_name['run']} {facts_by_name['state']}", *outcome])


def _colour(run_summary: step_status.RunSummary, verdict: str) -> str:
    """Return green if the gates let a version through, red if a person has to act, amber otherwise."""
    if run_summary.state != "succeeded" or verdict in ("failed", "unknown"):
        return _RED
    return _GREEN if verdict == "published" else _AMBER


def _notify_all(recipients: Sequence[Recipient], message: Message) -> list[str]:
    """Notify all recipients concurrently; return the results, which reveal no address."""
    results = {recipient.name: f"{recipient.name} did not answer in {TIME_LIMIT:.0f} s" for recipient in recipients}

    def notify_one(recipient: Recipient) -> None:
        results[recipient.name] = f"{recipient.name} {_deliver(recipient, message)}"

    threads = [threading.Thread(target=notify_one, args=(recipient,), daemon=True) for recipient in recipients]
    deadline = time.monotonic() + TIME_LIMIT
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return list(results.values())


def _deliver(recipient: Recipient, message: Message) -> str:
    """Send the message, and retry if that may help."""
    result = ""
    for attempt in range(_ATTEMPTS):
        time.sleep(attempt * _RETRY_PAUSE)
        try:
            recipient.send(message)
        except DeliveryRejected as error:
            return str(error)
        except DeliveryUnavailable as error:
            result = str(error)
        except Exception as error:  # a failed recipient fails nothing; the error's text may hold a secret
            return f"could not be told ({type(error).__name__})"
        else:
            return "was told"
    return result
