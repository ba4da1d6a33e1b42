"""Recipients of the final message: Slack's escapes, signed webhooks, mail. Over real HTTP and SMTP on loopback."""

import base64
import email
import email.policy
import hashlib
import hmac
import time
from dataclasses import replace

import pytest

from components.notification import notify as notification
from components.notification import senders
from components.notification.component import SECRET
from components.notification.notify import notify
from components.notification.senders import (
    Mail,
    Message,
    MisconfiguredSender,
    SignedWebhook,
    Slack,
    mail_message,
    read_recipients,
)
from components.scorer.run import step_status
from components.scorer.run.paths import RunPaths
from tests.fakes import smtp
from tests.fakes.webhook import published, said_to, webhook

KEY = bytes(range(32))
SIGNING = "whsec_" + base64.b64encode(KEY).decode()
PASSWORD = "a-password-nobody-may-see"
MAIL = {"SMTP_HOST": "mail.example", "MAIL_FROM": "scorer@example.org", "MAIL_TO": "ann@example.org, bob@example.org"}
MESSAGE = Message("run-7", "refused", "Portrait scorer: run run-7 succeeded", {"run": "run-7"}, "#b26a00")


@pytest.fixture(scope="module")
def pem(tmp_path_factory):
    return smtp.certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture
def place(tmp_path, monkeypatch) -> RunPaths:
    """Paths of a run; this process is a step of it."""
    monkeypatch.setenv(step_status.RUN_ID, "run-7")
    monkeypatch.setattr(notification, "_RETRY_PAUSE", 0.01)
    return RunPaths(str(tmp_path), "run-7")


@pytest.fixture
def trusted(pem, monkeypatch):
    """A certificate that this machine trusts."""
    monkeypatch.setenv("SSL_CERT_FILE", str(pem))
    return pem


def letters(server, **options) -> Mail:
    to = ("ann@example.org", "bob@example.org")
    return Mail("127.0.0.1", "scorer@example.org", to, **{"port": server.port} | options)


def told(place: RunPaths, capsys, *recipients) -> str:
    """Notify the recipients and return the log after its first line."""
    notify("SUCCEEDED", place, run_name="weekly", recipients=recipients)
    return capsys.readouterr().out.partition("\n")[2]


def test_slack_gets_its_three_characters_escaped_and_no_others(place):
    with webhook([200]) as (url, received):
        notify("FAILED", place, message='<!channel> & "a" > b', run_name="<b>", recipients=[Slack(url)])
    assert said_to(received)["Reason"] == '&lt;!channel&gt; &amp; "a" &gt; b'
    assert received[0]["text"].startswith("Portrait scorer: run &lt;b&gt; (run-7) failed")
    assert "<" not in received.bodies[0].decode()


def test_the_key_verifies_a_signed_message_with_the_verdict(place):
    published(place)
    with webhook([200]) as (url, received):
        notify("SUCCEEDED", place, run_name="weekly", recipients=[SignedWebhook(url, KEY)])
    headers, body = received.headers[0], received.bodies[0]
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    expected = base64.b64encode(hmac.new(KEY, signed, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{expected}"
    assert abs(int(headers["webhook-timestamp"]) - time.time()) < 60
    assert received[0]["type"] == "run.published"
    assert received[0]["data"]["published"] == "gs://models/portraits/3"
    assert received[0]["data"]["run"] == "weekly (run-7)"


def test_the_signature_equals_the_published_example():
    """The test vector of the Standard Webhooks libraries."""
    secret = read_recipients(
        {"SIGNED_WEBHOOK": "https://x", "SIGNING_SECRET": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}
    )[0].secret
    signed = b'msg_p5jXN8AQM9LWM0D4loKWxJek.1614265330.{"test": 2432232314}'
    signature = base64.b64encode(hmac.digest(secret, signed, hashlib.sha256)).decode()
    assert signature == "g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_a_message_that_is_sent_again_keeps_its_id_and_gets_a_new_signature(place):
    with webhook([503, 200]) as (url, received):
        notify("SUCCEEDED", place, recipients=[SignedWebhook(url, KEY)])
    assert len({headers["webhook-id"] for headers in received.headers}) == 1
    assert all(headers["webhook-signature"].startswith("v1,") for headers in received.headers)
    assert len(received) == 2


def test_mail_is_sent_encrypted_to_all_addresses_after_a_login(place, capsys, trusted):
    published(place)
    capsys.readouterr()
    with smtp.serving(trusted, login=("scorer", PASSWORD)) as server:
        log = told(place, capsys, letters(server, user="scorer", password=PASSWORD))
    assert log == "notification: the mail server was told\n"
    assert server.envelopes == [("scorer@example.org", ["ann@example.org", "bob@example.org"], True)]
    letter = email.message_from_bytes(server.mails[0], policy=email.policy.default)
    assert letter["Subject"].startswith("Portrait scorer: run weekly (run-7) succeeded; Published")
    assert "Published: gs://models/portraits/3" in letter.get_content()


def test_mail_is_sent_without_a_login_and_over_implicit_tls(place, capsys, trusted):
    with smtp.serving(trusted) as server, smtp.serving(trusted, tls=True) as encrypted:
        told(place, capsys, letters(server))
        told(place, capsys, letters(encrypted, security="tls"))
    assert [state.envelopes[0][2] for state in (server, encrypted)] == [True, True]


def test_mail_is_sent_unencrypted_only_on_request(place, capsys, pem):
    with smtp.serving(pem, starttls=False) as server:
        assert "lacks what it was asked for" in told(place, capsys, letters(server))
        assert server.mails == []
        told(place, capsys, letters(server, security="none"))
    assert server.envelopes[0][2] is False


def test_a_mail_server_with_an_untrusted_certificate_gets_neither_password_nor_mail(place, capsys, pem):
    with smtp.serving(pem, login=("scorer", PASSWORD)) as server:
        log = told(place, capsys, letters(server, user="scorer", password=PASSWORD))
    assert "shows a certificate that is not trusted" in log
    assert (server.mails, server.sessions) == ([], 1)


@pytest.mark.parametrize(("answers", "sessions", "mails"), [([451, 421], 3, 1), ([554], 1, 0)])
def test_mail_is_sent_again_only_after_a_temporary_refusal(place, capsys, trusted, answers, sessions, mails):
    with smtp.serving(trusted, answers=list(answers)) as server:
        log = told(place, capsys, letters(server))
    assert (server.sessions, len(server.mails)) == (sessions, mails)
    assert ("was told" if mails else "answered 554") in log


def test_accepted_mail_is_not_sent_again_after_a_failed_quit(place, capsys, trusted):
    with smtp.serving(trusted, goodbye=421) as server:
        assert "was told" in told(place, capsys, letters(server))
    assert (server.sessions, len(server.mails)) == (1, 1)


def test_a_refused_address_is_counted_without_its_name_and_the_other_gets_the_mail(place, capsys, trusted):
    with smtp.serving(trusted, unknown="bob@example.org") as server:
        log = told(place, capsys, letters(server))
    assert server.envelopes[0][1] == ["ann@example.org"]
    assert "refused 1 of 2 addresses" in log
    assert "bob" not in log


def test_a_wrong_password_is_refused_once_and_never_printed(place, capfd, trusted):
    with smtp.serving(trusted, login=("scorer", "another")) as server:
        notify("SUCCEEDED", place, recipients=[letters(server, user="scorer", password=PASSWORD)])
    printed = "".join(capfd.readouterr())
    assert "the mail server answered 535" in printed
    assert PASSWORD not in printed
    assert server.sessions == 1


def test_a_line_break_in_the_title_adds_no_mail_header():
    letter = mail_message(
        replace(MESSAGE, title="a\r\nBcc: everybody@example.org"), "a@example.org", ("b@example.org",)
    )
    assert letter["Subject"] == "a Bcc: everybody@example.org"
    assert letter["Bcc"] is None


@pytest.mark.slow
def test_recipients_are_notified_in_parallel_and_a_hanging_one_delays_no_other(
    place, capsys, monkeypatch, trusted
):  # fmt: skip
    monkeypatch.setattr(notification, "TIME_LIMIT", 0.6)
    start = time.monotonic()
    with webhook([200], delay=60) as (slow, _), webhook([200]) as (fast, received), smtp.serving(trusted) as server:
        log = told(place, capsys, Slack(slow), SignedWebhook(fast, KEY), letters(server))
        assert time.monotonic() - start < 30
    assert "the webhook did not answer" in log
    assert "the signed webhook was told" in log
    assert (len(received), len(server.mails)) == (1, 1)


def test_the_environment_names_all_recipients():
    hooks = {"WEBHOOK": "https://a", "SIGNED_WEBHOOK": "https://b", "SIGNING_SECRET": SIGNING}
    assert read_recipients(MAIL | hooks | {"SMTP_PORT": "2525"}) == [
        Slack("https://a"),
        SignedWebhook("https://b", KEY),
        Mail("mail.example", "scorer@example.org", ("ann@example.org", "bob@example.org"), port=2525),
    ]
    assert read_recipients({"PATH": "/bin", "WEBHOOK": "", "SMTP_HOST": " "}) == []


def test_a_kubernetes_service_called_smtp_does_not_set_the_mail_port():
    assert read_recipients(MAIL | {"SMTP_PORT": "tcp://10.96.12.7:25"}) == read_recipients(MAIL)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"SIGNED_WEBHOOK": "https://b"}, "SIGNING_SECRET has to be whsec_"),
        ({"SIGNED_WEBHOOK": "https://b", "SIGNING_SECRET": "whsec_c2hvcnQ="}, "SIGNING_SECRET has to be whsec_"),
        ({"SIGNED_WEBHOOK": "https://b", "SIGNING_SECRET": PASSWORD}, "SIGNING_SECRET has to be whsec_"),
        ({"SMTP_HOST": "mail"}, "MAIL_FROM has to be a mail address"),
        (MAIL | {"MAIL_TO": "ann"}, "MAIL_TO one or more"),
        (MAIL | {"MAIL_TO": "ann@example.org\nBcc: x@y"}, "MAIL_TO one or more"),
        (MAIL | {"SMTP_SECURITY": "ssl"}, "SMTP_SECURITY has to be starttls, tls or none"),
        (MAIL | {"SMTP_PORT": "smtp"}, "SMTP_PORT has to be a number"),
        (MAIL | {"SMTP_SECURITY": "none", "SMTP_USER": "a", "SMTP_PASSWORD": PASSWORD}, "not sent in the clear"),
    ],
)  # fmt: skip
def test_a_wrong_environment_fails_nothing_and_is_logged(place, capsys, given, words):
    (recipient,) = read_recipients(given)
    assert isinstance(recipient, MisconfiguredSender)
    log = told(place, capsys, recipient)
    assert words in log
    assert PASSWORD not in log


def test_a_printed_recipient_shows_no_secret():
    environment = MAIL | {"WEBHOOK": f"https://{PASSWORD}", "SMTP_USER": "a", "SMTP_PASSWORD": PASSWORD}
    printed = repr(read_recipients(environment | {"SIGNED_WEBHOOK": f"https://{PASSWORD}", "SIGNING_SECRET": SIGNING}))
    assert PASSWORD not in printed
    assert str(KEY) not in printed


def test_the_keys_of_the_secret_are_the_variables_that_are_read():
    class RecordingEnvironment(dict):
        def get(self, name, default=None):
            read_names.add(name)
            return super().get(name, default)

    read_names = set()
    environment = RecordingEnvironment(
        MAIL | {"SIGNED_WEBHOOK": "https://b", "SIGNING_SECRET": SIGNING, "WEBHOOK": "https://a"}
    )
    senders._signed_webhook(environment)
    senders._mail_recipient(environment)
    assert set(SECRET.values()) == read_names | {"WEBHOOK", "SIGNED_WEBHOOK", "SMTP_HOST"}
