"""Certificates of a test's own authority: one for the server, one for a server of another name, one for a client, one
that nobody has signed.

Made by openssl, which every machine with RabbitMQ has, so that no further package is needed.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.brokers.server import program

__all__ = ["Certificates"]

_DAYS = "2"
_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


class Certificates:
    """Makes them in a folder; the attributes are paths of PEM files. `names`: what the server is called."""

    def __init__(self, folder: Path, names: tuple[str, ...] = ("localhost",), client: str = "guest") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self.authority, self._authority_key = self._self_signed("authority", "/CN=authority of a test")
        alternatives = ",".join(["IP:127.0.0.1", *(f"DNS:{name}" for name in names)])
        self.server, self.server_key = self._signed("server", f"/CN={names[0]}", f"subjectAltName={alternatives}")
        elsewhere = "elsewhere.example"
        self.other, self.other_key = self._signed("other", f"/CN={elsewhere}", f"subjectAltName=DNS:{elsewhere}")
        self.client, self.client_key = self._signed("client", f"/CN={client}", "extendedKeyUsage=clientAuth")
        self.stranger, self.stranger_key = self._self_signed("stranger", "/CN=nobody that the authority knows")

    def server_store(self, password: str) -> Path:
        """The server's certificate and key in one file, as Java wants them (PKCS 12)."""
        store = self._folder / "server.p12"
        files = ["-in", str(self.server), "-inkey", str(self.server_key), "-out", str(store)]
        self._run("pkcs12", "-export", "-name", "server", *files, "-passout", f"pass:{password}")
        return store

    def _run(self, *arguments: str) -> None:
        openssl = program("openssl", cure="install it with: apt-get install -y openssl")
        subprocess.run([openssl, *arguments], check=True, capture_output=True, cwd=self._folder)

    def _self_signed(self, name: str, subject: str) -> tuple[Path, Path]:
        certificate, key = self._folder / f"{name}.pem", self._folder / f"{name}.key"
        self._run(
            "req", "-x509", *_KEY, "-keyout", str(key), "-out", str(certificate), "-days", _DAYS, "-subj", subject
        )
        return certificate, key

    def _signed(self, name: str, subject: str, extension: str) -> tuple[Path, Path]:
        certificate, key, request = (self._folder / f"{name}.{kind}" for kind in ("pem", "key", "csr"))
        extensions = self._folder / f"{name}.extensions"
        extensions.write_text(extension + "\n", encoding="utf-8")
        self._run("req", "-new", *_KEY, "-keyout", str(key), "-out", str(request), "-subj", subject)
        signer = ["-CA", str(self.authority), "-CAkey", str(self._authority_key), "-CAcreateserial"]
        files = ["-in", str(request), "-out", str(certificate), "-extfile", str(extensions)]
        self._run("x509", "-req", *files, *signer, "-days", _DAYS)
        return certificate, key
