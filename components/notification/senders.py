"""Recipients of a run's end besides the log: a Slack channel, a signed webhook, people by mail.

Their configuration comes from environment variables: addresses and passwords are secrets, and Kubeflow shows
parameters.
"""

import base64
import binascii
import contextlib
import email.message
import email.utils
import hashlib
import hmac
import json
import smtplib
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, cast, get_args

import requests

from components.scorer.run.environment import without_service_addresses

_TIMEOUT = 10.0  # seconds per request
_MAX_FACT_LENGTH = 3000  # maximum characters of a fact: Slack rejects messages above 40,000
_PREFIX = "whsec_"  # prefix of a signing secret (Standard Webhooks)
_PORTS = {"starttls": 587, "tls": 465, "none": 25}

Security = Literal["starttls", "tls", "none"]


class DeliveryRejected(Exception):
    """Permanent failure: the recipient will not accept the message on a retry. The text holds no secret."""


class DeliveryUnavailable(Exception):
    """Temporary failure: the recipient may accept the message on a retry. The text holds no secret."""


@dataclass(frozen=True)
class Message:
    """Notification of a run's end."""

    run: str
    verdict: str  # published, forced, refused, skipped, failed or unknown
    title: str  # one line of text
    facts: Mapping[str, str]  # facts by their short names
    colour: str  # colour of the verdict, #rrggbb


class Recipient(Protocol):
    """Recipient of notifications."""

    @property
    def name(self) -> str:
        """Name of the recipient in the log."""

    def send(self, message: Message) -> None:
        """Send the message.

        Raises:
            DeliveryRejected: A retry would not help.
            DeliveryUnavailable: A retry may help.
        """


@dataclass(frozen=True)
class Slack:
    """Incoming webhook for Slack's message format, which Mattermost and Rocket.Chat read too."""

    url: str = field(repr=False)
    name: str = "the webhook"

    def send(self, message: Message) -> None:
        """Post the title, and every fact as a field."""
        _post(self.url, json.dumps(slack_payload(message)).encode())


@dataclass(frozen=True)
class SignedWebhook:
    """Endpoint that accepts a signed POST according to https://www.standardwebhooks.com.

    The signature is the HMAC-SHA256 of ``<id>.<timestamp>.<body>`` in base64. The id stays the same on a retry, so that
    receivers can drop duplicates. The timestamp is the time of sending, so that receivers can reject replays.
    """

    url: str = field(repr=False)
    secret: bytes = field(repr=False)
    name: str = "the signed webhook"

    def send(self, message: Message) -> None:
        """Post the run's end as ``{"type", "timestamp", "data"}``."""
        now = int(time.time())
        data = {name.replace(" ", "_"): value for name, value in message.facts.items()}
        timestamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now))
        body = json.dumps({"type": f"run.{message.verdict}", "timestamp": timestamp, "data": data}).encode()
        headers = {"webhook-id": f"run-{message.run}", "webhook-timestamp": str(now)}
        signed = f"{headers['webhook-id']}.{now}.".encode() + body
        signature = base64.b64encode(hmac.digest(self.secret, signed, hashlib.sha256)).decode()
        _post(self.url, body, {**headers, "webhook-signature": f"v1,{signature}"})


@dataclass(frozen=True)
class Mail:
    """Mail to people through an SMTP server."""

    host: str
    sender: str
    to: tuple[str, ...]
    security: Security = "starttls"
    port: int = 0  # 0: the default port of `security`
    user: str = ""  # empty: no login
    password: str = field(default="", repr=False)
    name: str = "the mail server"

    def send(self, message: Message) -> None:
        """Send one mail to all addresses, unencrypted only if `security` is "none"."""
        client = None
        try:
            client = self._connect()
            if self.user:
                client.login(self.user, self.password)
            refused = client.send_message(mail_message(message, self.sender, self.to))
        except smtplib.SMTPRecipientsRefused as error:
            raise _smtp_error(min(code for code, _ in error.recipients.values())) from None
        except smtplib.SMTPResponseException as error:
            raise _smtp_error(error.smtp_code) from None
        except ssl.SSLCertVerificationError:
            raise DeliveryRejected("shows a certificate that is not trusted") from None
        except smtplib.SMTPNotSupportedError:
            raise DeliveryRejected("lacks what it was asked for: STARTTLS, or a login") from None
        except (OSError, smtplib.SMTPException) as error:
            raise DeliveryUnavailable(f"could not be reached ({type(error).__name__})") from None
        finally:
            if client is not None:
                with contextlib.suppress(OSError, smtplib.SMTPException):  # the answer to QUIT changes nothing
                    client.quit()
                client.close()
        if refused:
            raise DeliveryRejected(f"took the mail, but refused {len(refused)} of {len(self.to)} addresses")

    def _connect(self) -> smtplib.SMTP:
        port, context = self.port or _PORTS[self.security], ssl.create_default_context()
        if self.security == "tls":
            return smtplib.SMTP_SSL(self.host, port, timeout=_TIMEOUT, context=context)
        client = smtplib.SMTP(self.host, port, timeout=_TIMEOUT)
        if self.security == "starttls":
            try:
                client.starttls(context=context)
            except BaseException:
                client.close()
                raise
        return client


@dataclass(frozen=True)
class MisconfiguredSender:
    """Recipient whose environment variables are incomplete or invalid."""

    name: str
    reason: str

    def send(self, message: Message) -> None:
        """Raise `DeliveryRejected` with the reason."""
        raise DeliveryRejected(f"was not told: {self.reason}")


def read_recipients(environment: Mapping[str, str]) -> list[Recipient]:
    """Return the recipients that the environment configures.

    Args:
        environment: Environment variables. ``WEBHOOK``: a URL for Slack's format. ``SIGNED_WEBHOOK`` and
            ``SIGNING_SECRET``: a signed webhook. ``SMTP_HOST``, ``MAIL_FROM`` and ``MAIL_TO`` (comma-separated
            addresses): mail, with the optional ``SMTP_SECURITY`` (starttls, tls or none), ``SMTP_PORT``, ``SMTP_USER``
            and ``SMTP_PASSWORD``.
    """
    makers: dict[str, tuple[str, Callable[[Mapping[str, str]], Recipient]]] = {
        "WEBHOOK": (Slack.name, lambda variables: Slack(variables["WEBHOOK"])),
        "SIGNED_WEBHOOK": (SignedWebhook.name, _signed_webhook),
        "SMTP_HOST": (Mail.name, _mail_recipient),
    }
    variables = {name: value.strip() for name, value in without_service_addresses(environment).items() if value.strip()}
    recipients: list[Recipient] = []
    for variable, (name, make) in makers.items():
        if variable in variables:
            try:
                recipients.append(make(variables))
            except ValueError as error:
                recipients.append(MisconfiguredSender(name, str(error)))
    return recipients


def _signed_webhook(variables: Mapping[str, str]) -> SignedWebhook:
    """Return the signed webhook; raise ValueError unless all receivers' libraries decode its secret alike."""
    text = variables.get("SIGNING_SECRET", "")
    try:
        secret = base64.b64decode(text.removeprefix(_PREFIX), validate=True) if text.startswith(_PREFIX) else b""
    except binascii.Error:
        secret = b""
    if not 24 <= len(secret) <= 64:
        raise ValueError(f"SIGNING_SECRET has to be {_PREFIX} and 24 to 64 random bytes in base64")
    return SignedWebhook(variables["SIGNED_WEBHOOK"], secret)


def _mail_recipient(variables: Mapping[str, str]) -> Mail:
    """Return the mail recipient; raise ValueError if its variables are incomplete or invalid."""
    to = tuple(filter(None, (address.strip() for address in variables.get("MAIL_TO", "").split(","))))
    sender, security = variables.get("MAIL_FROM", ""), variables.get("SMTP_SECURITY", "starttls")
    port, user, password = (
        variables.get("SMTP_PORT", "0"),
        variables.get("SMTP_USER", ""),
        variables.get("SMTP_PASSWORD", ""),
    )
    if not to or not all(_is_address(address) for address in (sender, *to)):
        raise ValueError("MAIL_FROM has to be a mail address and MAIL_TO one or more, with commas between")
    if security not in get_args(Security):
        raise ValueError("SMTP_SECURITY has to be starttls, tls or none")
    if not port.isdigit() or int(port) > 65535:
        raise ValueError("SMTP_PORT has to be a number up to 65535")
    if security == "none" and user:
        raise ValueError("a password is not sent in the clear; set SMTP_SECURITY to starttls or tls")
    return Mail(variables["SMTP_HOST"], sender, to, cast(Security, security), int(port), user, password)


def _is_address(text: str) -> bool:
    """Return True if a text is one bare mail address."""
    local_part, at, domain = text.partition("@")
    return bool(local_part and at and domain) and text.isprintable() and not set(text) & set(" ,;<>@") - {"@"}


def slack_payload(message: Message) -> dict[str, Any]:
    """Return the message in Slack's format.

    The three characters by which Slack links and mentions are escaped.
    """
    text = _escape(message.title)
    fields = [
        {"title": name.capitalize(), "value": _escape(value), "short": len(value) < 40}
        for name, value in message.facts.items()
    ]
    return {"text": text, "attachments": [{"color": message.colour, "fallback": text, "fields": fields}]}


def _escape(text: str) -> str:
    """Return text with & < > escaped, as https://docs.slack.dev/messaging/formatting-message-text requires."""
    return text[:_MAX_FACT_LENGTH].replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def mail_message(message: Message, sender: str, to: tuple[str, ...]) -> email.message.EmailMessage:
    """Return the message as a plain-text mail; its id stays the same on a retry."""
    letter = email.message.EmailMessage()
    letter["From"], letter["To"] = sender, ", ".join(to)
    letter["Subject"] = " ".join(message.title.split())[:200]  # a header is one line
    letter["Date"] = email.utils.formatdate()
    letter["Message-ID"] = f"<{hashlib.sha256(message.run.encode()).hexdigest()[:32]}@{sender.partition('@')[2]}>"
    letter["Auto-Submitted"] = "auto-generated"  # suppresses automatic replies (RFC 3834)
    letter.set_content("\n".join(f"{name.capitalize()}: {value}" for name, value in message.facts.items()) + "\n")
    return letter


def _post(url: str, body: bytes, headers: Mapping[str, str] | None = None) -> None:
    """Post JSON; redirects are not followed, as they would send the message elsewhere."""
    all_headers = {"Content-Type": "application/json", **(headers or {})}
    try:
        response = requests.post(url, data=body, headers=all_headers, timeout=_TIMEOUT, allow_redirects=False)
    except Exception as error:  # a URL can fail in many ways; the error's text holds the secret URL
        raise DeliveryUnavailable(f"could not be reached ({type(error).__name__})") from None
    if response.ok and not response.is_redirect:
        return
    is_temporary = response.status_code == 429 or response.status_code >= 500
    raise (DeliveryUnavailable if is_temporary else DeliveryRejected)(f"answered {response.status_code}")


def _smtp_error(code: int) -> Exception:
    """Return the error of an SMTP reply code: 4xx is temporary, 5xx permanent (RFC 5321, 4.2.1)."""
    return (DeliveryRejected if code >= 500 else DeliveryUnavailable)(f"answered {code}")
