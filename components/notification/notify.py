"""Close a run's records and tell people how it ended: in the log always, and through a webhook if there is one."""

import threading
import time
from typing import Any

import requests

from components.scorer import decision, journal
from components.scorer.workspace import Workspace

PATIENCE = 45.0
"""Seconds that the webhook may take in all, its retries included: a run never waits a minute for it."""

_ATTEMPTS = 3
_PAUSE = 2.0  # seconds before the second attempt, twice that before the third
_GREEN, _AMBER, _RED = "#2e7d32", "#b26a00", "#c62828"


def notify(state: str, place: Workspace, *, message: str = "", run_name: str = "", webhook: str = "") -> None:
    """Say how the run ended: its name and state, the failed step, the verdict and why, the published version.

    The run's ``decision.json`` is written where no step came to write it, and says "failed" where a scorer was to be
    published and was not. A webhook that fails is said in the log and fails nothing. Its URL is a secret and never
    printed.

    Args:
        state: of the run's steps, as Kubeflow tells its exit handler.
        place: of the run in the workspace.
        message: Kubeflow's own, of what failed.
        run_name: the run's name for people.
        webhook: URL to send Slack's message format to (Mattermost and Rocket.Chat read it too); empty for none.
    """
    try:
        account = journal.account(place, state, message)
        _conclude(place, account)
    except Exception as error:  # whatever the records hold, the state alone is worth telling
        reason = f"its records cannot be read: {decision.in_short(error)}"
        account = journal.Account(place.run, state.lower(), reason=reason)
    said = facts(account, run_name)
    print("notification: " + "; ".join(f"{name} {value}" for name, value in said.items()), flush=True)
    if webhook:
        print("notification: " + _deliver(webhook, slack(said, _colour(account))), flush=True)


def _conclude(place: Workspace, account: journal.Account) -> None:
    """Write the decision as it is at the end of the run, unless it is there."""
    if account.decision is None or account.decision == decision.read(place.decision):
        return
    try:
        decision.write(place.decision, account.decision)
    except OSError as error:
        print(f"notification: the decision could not be written: {decision.in_short(error)}", flush=True)


def facts(account: journal.Account, run_name: str = "") -> dict[str, str]:
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


def slack(said: dict[str, str], colour: str) -> dict[str, Any]:
    """What is said, in Slack's message format: a line of text, and every fact as a field."""
    told = ("verdict", "published") if said["state"] == "succeeded" else ("failed step", "reason")
    outcome = [said[name] for name in told if name in said]
    text = "; ".join([f"Portrait scorer: run {said['run']} {said['state']}", *outcome])
    fields = [{"title": name.capitalize(), "value": value, "short": len(value) < 40} for name, value in said.items()]
    return {"text": text, "attachments": [{"color": colour, "fallback": text, "fields": fields}]}


def _colour(account: journal.Account) -> str:
    """Green where the gates let a version through, red where a person has to look, amber for all between."""
    verdict = account.decision["verdict"] if account.decision else "unknown"
    if account.state != "succeeded" or verdict == "failed":
        return _RED
    return _GREEN if verdict == "published" else _AMBER


def _deliver(webhook: str, content: dict[str, Any]) -> str:
    """Send the message, and say what came of it without saying where it went."""
    result = [f"the webhook did not answer in {PATIENCE:.0f} s"]
    thread = threading.Thread(target=lambda: result.append(_post(webhook, content)), daemon=True)
    thread.start()
    thread.join(PATIENCE)
    return result[-1]


def _post(webhook: str, content: dict[str, Any]) -> str:
    """Send the message, again where that may help."""
    result = ""
    for attempt in range(_ATTEMPTS):
        time.sleep(attempt * _PAUSE)
        try:
            answer = requests.post(webhook, json=content, timeout=10, allow_redirects=False)
        except Exception as error:  # whatever it is, it fails nothing; its text holds the URL
            result = f"the webhook could not be reached ({type(error).__name__})"
            continue
        if answer.ok and not answer.is_redirect:
            return "the webhook was told"
        result = f"the webhook answered {answer.status_code}"
        if answer.status_code != 429 and answer.status_code < 500:
            break
    return result
