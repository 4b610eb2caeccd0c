# SPDX-License-Identifier: Apache-2.0
"""An issuer of JSON Web Tokens on this machine: discovery, its keys, and tokens signed with them.

    with Issuer() as issuer:                      # certificate=... of trustme: at https://localhost
        issuer.config(project="default")          # the lines for keys.issuers
        issuer.token(sub="ann")                   # signed by the newest key, good for ten minutes
        issuer.add_key("ES256"); issuer.keys.pop(0)    # rotation
        issuer.is_away = True                     # answers 503
        issuer.asked                              # paths asked for, in order
"""
import base64
import hashlib
import hmac
import json
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature


def encode(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def encode_json(value):
    return encode(json.dumps(value).encode())


def encode_number(number, length=None):
    return encode(number.to_bytes(length or (number.bit_length() + 7) // 8, "big"))


class Key:
    def __init__(self, algorithm, kid):
        self.algorithm, self.kid = algorithm, kid
        if algorithm == "RS256":
            self.secret = rsa.generate_private_key(65537, 2048)
        elif algorithm == "ES256":
            self.secret = ec.generate_private_key(ec.SECP256R1())
        else:
            self.secret = ed25519.Ed25519PrivateKey.generate()

    def jwk(self):
        public = self.secret.public_key()
        if self.algorithm == "RS256":
            numbers = public.public_numbers()
            members = {"kty": "RSA", "n": encode_number(numbers.n), "e": encode_number(numbers.e)}
        elif self.algorithm == "ES256":
            numbers = public.public_numbers()
            members = {"kty": "EC", "crv": "P-256", "x": encode_number(numbers.x, 32),
                       "y": encode_number(numbers.y, 32)}
        else:
            members = {"kty": "OKP", "crv": "Ed25519", "x": encode(public.public_bytes_raw())}
        return {**members, "kid": self.kid, "alg": self.algorithm, "use": "sig"}

    def sign(self, text):
        data = text.encode()
        if self.algorithm == "RS256":
            return self.secret.sign(data, padding.PKCS1v15(), hashes.SHA256())
        if self.algorithm == "ES256":
            r, s = decode_dss_signature(self.secret.sign(data, ec.ECDSA(hashes.SHA256())))
            return r.to_bytes(32, "big") + s.to_bytes(32, "big")
        return self.secret.sign(data)


class Issuer:
    def __init__(self, algorithm="EdDSA", certificate=None):
        self.keys, self.asked = [], []
        self.is_away, self.count = False, 0
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        if certificate:
            tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            certificate.configure_cert(tls)
            self.server.socket = tls.wrap_socket(self.server.socket, server_side=True)
            self.url = f"https://localhost:{self.server.server_port}"
        self.answers = {
            "/.well-known/openid-configuration":
                lambda: {"issuer": self.url, "jwks_uri": self.url + "/keys?v=1"},
            "/keys?v=1": lambda: {"keys": [key.jwk() for key in self.keys]}}
        self.add_key(algorithm)

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *exception):
        self.server.shutdown()
        self.server.server_close()

    def _handler(issuer):
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                issuer.asked.append(self.path)
                answer = issuer.answers.get(self.path)
                status = 503 if issuer.is_away else 200 if answer else 404
                body = json.dumps(answer()).encode() if status == 200 else b"no"
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.send_header("Cache-Control", "max-age=600")
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *arguments):
                pass
        return Handler

    def add_key(self, algorithm="EdDSA"):
        self.count += 1
        self.keys.append(Key(algorithm, f"key-{self.count}"))
        return self.keys[-1]

    def config(self, name="corp", audience="sluice", **members):
        members = {"name": name, "issuer": self.url, "audience": audience, **members}
        return json.dumps(members)

    def claims(self, **changes):
        claims = {"iss": self.url, "aud": "sluice", "sub": "ann",
                  "exp": int(time.time()) + 600, **changes}
        return {name: value for name, value in claims.items() if value is not None}

    def token(self, key=None, header=None, **claims):
        """Claims that are None are left out."""
        key = key or self.keys[-1]
        header = {"alg": key.algorithm, "kid": key.kid, "typ": "JWT", **(header or {})}
        text = encode_json(header) + "." + encode_json(self.claims(**claims))
        return text + "." + encode(key.sign(text))

    def confused_token(self):
        """Signed by HMAC with what everybody knows: the public key."""
        key = self.keys[-1]
        text = (encode_json({"alg": "HS256", "kid": key.kid}) + "." + encode_json(self.claims()))
        secret = json.dumps(key.jwk()).encode()
        return text + "." + encode(hmac.new(secret, text.encode(), hashlib.sha256).digest())
