"""Who is told of a run's end besides the log: a Slack channel, a signed webhook, people by mail.

What each needs comes from environment variables: addresses and passwords are secrets, and parameters are shown.
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
from typing import Any, Literal, Protocol, get_args

import requests

from components.scorer.run.environment import without_services

_TIMEOUT = 10.0  # seconds for each answer
_LONGEST = 3000  # characters of a fact: Slack refuses a message above 40,000
_PREFIX = "whsec_"  # of a signing secret (Standard Webhooks)
_PORTS = {"starttls": 587, "tls": 465, "none": 25}


class Refused(Exception):
    """The recipient will not take the message, now or later. The text holds no secret."""


class Unreached(Exception):
    """The recipient did not take the message this time. The text holds no secret."""


@dataclass(frozen=True)
class Message:
    """The end of a run, as it is told."""

    run: str
    verdict: str  # published, forced, refused, skipped, failed or unknown
    title: str  # one line
    said: Mapping[str, str]  # every fact by its short name
    colour: str  # that tells the verdict, as #rrggbb


class Recipient(Protocol):
    """One who is told."""

    name: str

    def send(self, message: Message) -> None:
        """Hand the message over.

        Raises:
            Refused: trying again would not help.
            Unreached: it may.
        """


@dataclass(frozen=True)
class Slack:
    """An incoming webhook that reads Slack's message format, as Mattermost's and Rocket.Chat's do too."""

    url: str = field(repr=False)
    name: str = "the webhook"

    def send(self, message: Message) -> None:
        """Post the line, and every fact as a field."""
        _post(self.url, json.dumps(slack(message)).encode())


@dataclass(frozen=True)
class SignedWebhook:
    """Any program that takes a signed POST, as https://www.standardwebhooks.com describes and verifies them.

    The signature is the HMAC-SHA256 of ``<id>.<timestamp>.<body>`` in base64. The id stays the same when a message is
    sent again, so that it can be heeded once; the timestamp is of the sending, so that an old one can be turned away.
    """

    url: str = field(repr=False)
    secret: bytes = field(repr=False)
    name: str = "the signed webhook"

    def send(self, message: Message) -> None:
        """Post what happened as ``{"type", "timestamp", "data"}``."""
        now = int(time.time())
        data = {name.replace(" ", "_"): value for name, value in message.said.items()}
        moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now))
        body = json.dumps({"type": f"run.{message.verdict}", "timestamp": moment, "data": data}).encode()
        own = {"webhook-id": f"run-{message.run}", "webhook-timestamp": str(now)}
        signed = f"{own['webhook-id']}.{now}.".encode() + body
        signature = base64.b64encode(hmac.digest(self.secret, signed, hashlib.sha256)).decode()
        _post(self.url, body, {**own, "webhook-signature": f"v1,{signature}"})


@dataclass(frozen=True)
class Mail:
    """People, through a mail server (SMTP)."""

    host: str
    sender: str
    to: tuple[str, ...]
    security: Literal["starttls", "tls", "none"] = "starttls"
    port: int = 0  # 0: the usual one
    user: str = ""  # empty: the server asks for no login
    password: str = field(default="", repr=False)
    name: str = "the mail server"

    def send(self, message: Message) -> None:
        """Send one mail to all, in the clear only where that is asked for."""
        client = None
        try:
            client = self._connect()
            if self.user:
                client.login(self.user, self.password)
            refused = client.send_message(mail(message, self.sender, self.to))
        except smtplib.SMTPRecipientsRefused as error:
            raise _answered(min(code for code, _ in error.recipients.values())) from None
        except smtplib.SMTPResponseException as error:
            raise _answered(error.smtp_code) from None
        except ssl.SSLCertVerificationError:
            raise Refused("shows a certificate that is not trusted") from None
        except smtplib.SMTPNotSupportedError:
            raise Refused("lacks what it was asked for: STARTTLS, or a login") from None
        except (OSError, smtplib.SMTPException) as error:
            raise Unreached(f"could not be reached ({type(error).__name__})") from None
        finally:
            if client is not None:
                with contextlib.suppress(OSError, smtplib.SMTPException):  # the mail is out, or not, whatever it says
                    client.quit()
                client.close()
        if refused:
            raise Refused(f"took the mail, but refused {len(refused)} of {len(self.to)} addresses")

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
class Misconfigured:
    """One who was to be told, by an environment that does not say how."""

    name: str
    why: str

    def send(self, message: Message) -> None:
        """Say why nobody can be told."""
        raise Refused(f"was not told: {self.why}")


def read(environment: Mapping[str, str]) -> list[Recipient]:
    """Who the environment says is to be told.

    Args:
        environment: ``WEBHOOK``, a URL for Slack's format; ``SIGNED_WEBHOOK`` and its ``SIGNING_SECRET``;
            ``SMTP_HOST``, ``MAIL_FROM`` and ``MAIL_TO`` (addresses with commas between), where wanted with
            ``SMTP_SECURITY`` (starttls, tls or none), ``SMTP_PORT``, ``SMTP_USER`` and ``SMTP_PASSWORD``.
    """
    makers: dict[str, tuple[str, Callable[[Mapping[str, str]], Recipient]]] = {
        "WEBHOOK": (Slack.name, lambda given: Slack(given["WEBHOOK"])),
        "SIGNED_WEBHOOK": (SignedWebhook.name, _signed),
        "SMTP_HOST": (Mail.name, _mail),
    }
    given = {name: value.strip() for name, value in without_services(environment).items() if value.strip()}
    found: list[Recipient] = []
    for variable, (name, make) in makers.items():
        if variable in given:
            try:
                found.append(make(given))
            except ValueError as error:
                found.append(Misconfigured(name, str(error)))
    return found


def _signed(given: Mapping[str, str]) -> SignedWebhook:
    """The signed webhook, once its secret is one that the receivers' libraries read alike."""
    text = given.get("SIGNING_SECRET", "")
    try:
        secret = base64.b64decode(text.removeprefix(_PREFIX), validate=True) if text.startswith(_PREFIX) else b""
    except binascii.Error:
        secret = b""
    if not 24 <= len(secret) <= 64:
        raise ValueError(f"SIGNING_SECRET has to be {_PREFIX} and 24 to 64 random bytes in base64")
    return SignedWebhook(given["SIGNED_WEBHOOK"], secret)


def _mail(given: Mapping[str, str]) -> Mail:
    """The mail server, once it is said from whom and to whom."""
    to = tuple(filter(None, (address.strip() for address in given.get("MAIL_TO", "").split(","))))
    sender, security = given.get("MAIL_FROM", ""), given.get("SMTP_SECURITY", "starttls")
    port, user, password = given.get("SMTP_PORT", "0"), given.get("SMTP_USER", ""), given.get("SMTP_PASSWORD", "")
    if not to or not all(_is_address(address) for address in (sender, *to)):
        raise ValueError("MAIL_FROM has to be a mail address and MAIL_TO one or more, with commas between")
    if security not in get_args(Mail.__annotations__["security"]):
        raise ValueError("SMTP_SECURITY has to be starttls, tls or none")
    if not port.isdigit() or int(port) > 65535:
        raise ValueError("SMTP_PORT has to be a number up to 65535")
    if security == "none" and user:
        raise ValueError("a password is not sent in the clear; set SMTP_SECURITY to starttls or tls")
    return Mail(given["SMTP_HOST"], sender, to, security, int(port), user, password)


def _is_address(text: str) -> bool:
    """Whether a text is one bare mail address."""
    before, at, after = text.partition("@")
    return bool(before and at and after) and text.isprintable() and not set(text) & set(" ,;<>@") - {"@"}


def slack(message: Message) -> dict[str, Any]:
    """The message in Slack's format, with the three characters escaped by which Slack links and mentions."""
    text = _escaped(message.title)
    fields = [
        {"title": name.capitalize(), "value": _escaped(value), "short": len(value) < 40}
        for name, value in message.said.items()
    ]
    return {"text": text, "attachments": [{"color": message.colour, "fallback": text, "fields": fields}]}


def _escaped(text: str) -> str:
    """The text as https://docs.slack.dev/messaging/formatting-message-text wants it: & < > and no others."""
    return text[:_LONGEST].replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def mail(message: Message, sender: str, to: tuple[str, ...]) -> email.message.EmailMessage:
    """The message as a mail of plain text; its id stays the same when it is sent again."""
    letter = email.message.EmailMessage()
    letter["From"], letter["To"] = sender, ", ".join(to)
    letter["Subject"] = " ".join(message.title.split())[:200]  # a header is one line
    letter["Date"] = email.utils.formatdate()
    letter["Message-ID"] = f"<{hashlib.sha256(message.run.encode()).hexdigest()[:32]}@{sender.partition('@')[2]}>"
    letter["Auto-Submitted"] = "auto-generated"  # so that no absence note answers (RFC 3834)
    letter.set_content("\n".join(f"{name.capitalize()}: {value}" for name, value in message.said.items()) + "\n")
    return letter


def _post(url: str, body: bytes, headers: Mapping[str, str] | None = None) -> None:
    """Post JSON, and follow no redirect: it would take the message elsewhere."""
    own = {"Content-Type": "application/json", **(headers or {})}
    try:
        answer = requests.post(url, data=body, headers=own, timeout=_TIMEOUT, allow_redirects=False)
    except Exception as error:  # its text holds the URL, and a URL may be wrong in many ways
        raise Unreached(f"could not be reached ({type(error).__name__})") from None
    if answer.ok and not answer.is_redirect:
        return
    again = answer.status_code == 429 or answer.status_code >= 500
    raise (Unreached if again else Refused)(f"answered {answer.status_code}")


def _answered(code: int) -> Exception:
    """What an SMTP answer means: 4xx for now, 5xx for good (RFC 5321, 4.2.1)."""
    return (Refused if code >= 500 else Unreached)(f"answered {code}")
