"""A small strict mail server (RFC 5321) with STARTTLS and a login, for the real ``smtplib``.

It refuses commands out of order, a login without encryption, and unknown recipients.
"""

import base64
import datetime
import ipaddress
import socketserver
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


@dataclass
class MailServer:
    """Behaviour of the server, and the mail that it received."""

    port: int = 0
    login: tuple[str, str] | None = None
    starttls: bool = True
    answers: list[int] = field(default_factory=list)
    """Codes that answer DATA in turn; 250 accepts the mail."""
    unknown: str = ""
    """A recipient that is refused."""
    mails: list[bytes] = field(default_factory=list)
    envelopes: list[tuple[str, list[str], bool]] = field(default_factory=list)
    """Sender, recipients and whether the connection was encrypted, for each mail."""
    sessions: int = 0
    goodbye: int = 221


def certificate(folder: Path) -> Path:
    """Write a self-signed certificate for 127.0.0.1 and its key to one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "mail")])
    today = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(today - datetime.timedelta(days=1))
        .not_valid_after(today + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    pem = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path = folder / "mail.pem"
    path.write_bytes(key.private_bytes(*pem) + signed.public_bytes(serialization.Encoding.PEM))
    return path


class _Session(socketserver.StreamRequestHandler):
    """The session of one client."""

    timeout = 10
    state: MailServer
    context: ssl.SSLContext
    tls: bool

    def setup(self) -> None:
        if self.tls:
            self.request = self.context.wrap_socket(self.request, server_side=True)
        super().setup()
        self.encrypted, self.greeted, self.known = self.tls, False, self.state.login is None
        self.sender, self.to = None, []

    def handle(self) -> None:
        self.state.sessions += 1
        self.say("220 mail")
        with suppress(ssl.SSLError, ConnectionError):
            while line := self.rfile.readline():
                verb, _, rest = line.decode("ascii").strip().partition(" ")
                if self.obey(verb.upper(), rest):
                    return

    def finish(self) -> None:
        super().finish()
        self.connection.close()  # an encrypted connection is not the socket that the server closes

    def say(self, *lines: str) -> None:
        self.wfile.write("".join(line + "\r\n" for line in lines).encode())

    def obey(self, verb: str, rest: str) -> bool:
        """Carry out a command and return whether the session is over."""
        match verb:
            case "EHLO":
                self.greeted = True
                offers = ["STARTTLS"] if self.state.starttls and not self.encrypted else []
                offers += ["AUTH PLAIN"] if self.state.login and self.encrypted else []
                self.say(*(f"250-{offer}" for offer in ["mail", *offers]), "250 8BITMIME")
            case "STARTTLS" if self.state.starttls and not self.encrypted and self.greeted:
                self.say("220 go ahead")
                self.request = self.connection = self.context.wrap_socket(self.request, server_side=True)
                self.rfile, self.wfile = self.request.makefile("rb"), self.request.makefile("wb", 0)
                self.encrypted, self.greeted = True, False
            case "AUTH" if self.greeted and self.encrypted and self.state.login:
                kind, _, credentials = rest.partition(" ")
                _, user, password = base64.b64decode(credentials).decode().split("\0")
                self.known = kind == "PLAIN" and (user, password) == self.state.login
                self.say("235 welcome" if self.known else "535 no")
            case "MAIL" if self.greeted and rest.upper().startswith("FROM:") and self.sender is None:
                if not self.known:
                    self.say("530 log in first")
                    return False
                self.sender = rest[5:].partition(">")[0].strip("<> ")
                self.say("250 ok")
            case "RCPT" if self.sender is not None and rest.upper().startswith("TO:"):
                address = rest[3:].strip("<> ")
                if address == self.state.unknown:
                    self.say("550 nobody of that name")
                else:
                    self.to.append(address)
                    self.say("250 ok")
            case "DATA" if self.to:
                self.take()
            case "RSET":
                self.sender, self.to = None, []
                self.say("250 ok")
            case "QUIT":
                self.say(f"{self.state.goodbye} bye")
                return True
            case _:
                self.say("503 not now")
        return False

    def take(self) -> None:
        """Receive a mail, and answer with the next code of ``answers``."""
        self.say("354 go on")
        lines = []
        while (line := self.rfile.readline()) != b".\r\n":
            assert line.endswith(b"\r\n")
            lines.append(line.removeprefix(b"."))
        code = self.state.answers.pop(0) if self.state.answers else 250
        if code == 250:
            self.state.mails.append(b"".join(lines))
            self.state.envelopes.append((self.sender, self.to, self.encrypted))
        self.sender, self.to = None, []
        self.say(f"{code} that is all")


@contextmanager
def serving(pem: Path, *, tls: bool = False, **behaviour) -> Iterator[MailServer]:
    """Start a server on loopback; with ``tls`` it encrypts from the first byte."""
    state = MailServer(**behaviour)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    handler = type("Session", (_Session,), {"state": state, "context": context, "tls": tls})

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

        def handle_error(self, *_) -> None:  # a client that does not trust the certificate disconnects
            pass

    with Server(("127.0.0.1", 0), handler) as server:
        state.port = server.server_address[1]
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield state
        finally:
            server.shutdown()
