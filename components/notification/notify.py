"""Close a run's records and tell people how it ended: in the log always, and whoever else is to be told."""

import threading
import time
from collections.abc import Sequence

from components.notification.senders import Message, Recipient, Refused, Unreached
from components.scorer import quoting
from components.scorer.run import decision, step_status
from components.scorer.run.paths import Workspace

PATIENCE = 45.0
"""Seconds that telling may take in all, retries included: a run never waits a minute for it."""

_ATTEMPTS = 3
_PAUSE = 2.0  # seconds before the second attempt, twice that before the third
_GREEN, _AMBER, _RED = "#2e7d32", "#b26a00", "#c62828"


def notify(
    state: str, place: Workspace, *, message: str = "", run_name: str = "", recipients: Sequence[Recipient] = ()
) -> None:
    """Say how the run ended: its name and state, the failed step, the verdict and why, the published version.

    The run's ``decision.json`` is written where no step came to write it, and says "failed" where a scorer was to be
    published and was not. A recipient that fails is said in the log and fails nothing. Addresses and passwords are
    secrets and never printed.

    Args:
        state: of the run's steps, as Kubeflow tells its exit handler.
        place: of the run in the workspace.
        message: Kubeflow's own, of what failed.
        run_name: the run's name for people.
        recipients: who is told besides the log, all at the same time.
    """
    try:
        account = step_status.account(place, state, message)
        _conclude(place, account)
    except Exception as error:  # whatever the records hold, the state alone is worth telling
        reason = f"its records cannot be read: {quoting.in_short(error)}"
        account = step_status.Account(place.run, state.lower(), reason=reason)
    said = facts(account, run_name)
    print("notification: " + "; ".join(f"{name} {value}" for name, value in said.items()), flush=True)
    verdict = account.decision["verdict"] if account.decision else "unknown"
    for result in _tell(recipients, Message(account.run, verdict, _title(said), said, _colour(account, verdict))):
        print(f"notification: {result}", flush=True)


def _conclude(place: Workspace, account: step_status.Account) -> None:
    """Write the decision as it is at the end of the run, unless it is there."""
    if account.decision is None or account.decision == decision.read(place.decision):
        return
    try:
        decision.write(place.decision, account.decision)
    except OSError as error:
        print(f"notification: the decision could not be written: {quoting.in_short(error)}", flush=True)


def facts(account: step_status.Account, run_name: str = "") -> dict[str, str]:
    """What is said of a run, by a short name for each fact.

    The verdict begins with its own word: published, forced, refused, skipped or failed.
    """
    said = {
        "run": f"{run_name} ({account.run})" if run_name else account.run,
        "state": account.state,
        "failed step": account.step,
        "reason": account.reason,
        "verdict": account.verdict or "unknown",
        "warnings": " ".join(account.decision["warnings"]) if account.decision else "",
        "published": account.published or "not published",
        "report": account.report,
    }
    return {name: value for name, value in said.items() if value}


def _title(said: dict[str, str]) -> str:
    """What is said, in a line."""
    told = ("verdict", "published") if said["state"] == "succeeded" else ("failed step", "reason")
    outcome = [said[name] for name in told if name in said]
    return "; ".join([f"Portrait scorer: run {said['run']} {said['state']}", *outcome])


def _colour(account: step_status.Account, verdict: str) -> str:
    """Green where the gates let a version through, red where a person has to look, amber for all between."""
    if account.state != "succeeded" or verdict in ("failed", "unknown"):
        return _RED
    return _GREEN if verdict == "published" else _AMBER


def _tell(recipients: Sequence[Recipient], message: Message) -> list[str]:
    """Tell all at the same time, and say what came of it without saying where it went."""
    results = {one.name: f"{one.name} did not answer in {PATIENCE:.0f} s" for one in recipients}

    def tell(one: Recipient) -> None:
        results[one.name] = f"{one.name} {_handed_over(one, message)}"

    threads = [threading.Thread(target=tell, args=(one,), daemon=True) for one in recipients]
    until = time.monotonic() + PATIENCE
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
    return list(results.values())


def _handed_over(recipient: Recipient, message: Message) -> str:
    """Send the message, again where that may help."""
    result = ""
    for attempt in range(_ATTEMPTS):
        time.sleep(attempt * _PAUSE)
        try:
            recipient.send(message)
        except Refused as error:
            return str(error)
        except Unreached as error:
            result = str(error)
        except Exception as error:  # whatever it is, it fails nothing; its text may hold a secret
            return f"could not be told ({type(error).__name__})"
        else:
            return "was told"
    return result
