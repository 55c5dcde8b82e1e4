"""The second authorization server of the integration tests: django-oauth-toolkit (PyPI, pinned in requirements.txt) over
a database in memory, with two small resources and a control listener. All OAuth behaviour is the library's; this file
is configuration, faults and counters.

    .venv/bin/python server.py     prints one line, `ready issuer=URL ctl=URL`, and serves 127.0.0.1
                                   until its standard input closes (so that no test run leaves an orphan)

Environment
    PORT, CTL_PORT (0)       0 takes a free port
    AT_TTL (2)               seconds that an access token lives
    GRACE (0)                seconds that a rotated refresh token is still taken, and answered with the same successor

Endpoints                    /o/token/ /o/revoke_token/ /o/introspect/ of the library, and our own, for GET with a token:
    /api/me                  {user}; else 401 with a challenge and its `resource_metadata`
    /api/plain               {user}; else 403 without a challenge, as the library's decorator answers by default

Clients                      pub (no secret) · conf-basic `conf-secret`
Refresh tokens rotate; a spent one that comes back revokes its whole family.

Controls: POST a JSON object (or nothing) to the control listener
    /seed {user, client, scope}    a new family → {access_token, refresh_token, expires_in, scope, token_type, grant_id};
                                   every member has a default; grant_id is the name of the family
    /lookup {token}                what the database holds → {kind, user, client, grant_id, revoked}, or 404
    /disable {user}, /enable {user}
    /revoke-grant {grant_id}       the family goes, as an administrator does it
    /set {…}                       any of the settings below → all of them
    /counts, /reset                the counters below; set to 0
"""

import io
import json
import os
import socket
import sys
import threading
import time
import uuid
from datetime import timedelta
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote

# Whoever started us is gone when our standard input closes, whatever state we are in.
threading.Thread(target=lambda: (sys.stdin.buffer.read(), os._exit(0)), daemon=True).start()

# ===== what the controls change, and what they report =====

settings = {
    "accessTtl": int(os.environ.get("AT_TTL", "2")),  # seconds
    "grace": int(os.environ.get("GRACE", "0")),  # seconds
    "answerDelayMs": 0,  # after the token endpoint did everything, before its answer leaves
    "dropAfterToken": 0,  # so many answers of the token endpoint are lost: the socket closes instead
}

counts = {
    "token_requests": 0,  # POST /o/token/, whatever the answer
    "refresh_success": 0,  # refreshes answered with 200, also when the answer was then dropped
    "rotations": 0,  # refresh tokens minted by a refresh; a repeat within the grace period mints none
    "reuse_revocations": 0,  # families revoked because a spent refresh token came back
    "revocation_requests": 0,
    "api_requests": 0,  # /api/…
    "api_401": 0,
    "api_403": 0,
}


def change(changes):
    for name, value in changes.items():
        if name not in settings or type(value) is not int or value < 0:
            raise ValueError(f"not a setting, or not a value for it: {name} = {value!r}")
    settings.update(changes)
    apply()
    return settings


# ===== the library =====

import django
from django.conf import settings as configuration

configuration.configure(
    ALLOWED_HOSTS=["127.0.0.1"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "oauth2_provider"],
    # The tables are made from the models at once, not migration by migration.
    MIGRATION_MODULES={"auth": None, "contenttypes": None, "oauth2_provider": None},
    OAUTH2_PROVIDER={
        "ALWAYS_RELOAD_OAUTHLIB_CORE": True,  # so that a changed lifetime counts at once
        "OAUTH2_VALIDATOR_CLASS": "__main__.Validator",
        "REFRESH_TOKEN_REUSE_PROTECTION": True,
        "ROTATE_REFRESH_TOKEN": True,
        "SCOPES": {"read": "read", "write": "write"},
    },
    PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"],  # quick, and nothing here is worth more
    ROOT_URLCONF="__main__",
    SECRET_KEY="for-tests-only",
    USE_TZ=True,
)
django.setup()

from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.core.wsgi import get_wsgi_application
from django.db import connections
from django.http import JsonResponse
from django.urls import include, path
from django.utils import timezone
from oauth2_provider.decorators import protected_resource
from oauth2_provider.models import get_access_token_model, get_application_model, get_refresh_token_model
from oauth2_provider.oauth2_validators import OAuth2Validator
from oauth2_provider.settings import oauth2_settings
from oauthlib.common import generate_token

User = get_user_model()
Application, AccessToken, RefreshToken = get_application_model(), get_access_token_model(), get_refresh_token_model()


def apply():
    oauth2_settings.ACCESS_TOKEN_EXPIRE_SECONDS = settings["accessTtl"]
    oauth2_settings.REFRESH_TOKEN_GRACE_PERIOD_SECONDS = settings["grace"]


class Validator(OAuth2Validator):
    rotated = set()  # the keys of refresh tokens that were exchanged

    def validate_refresh_token(self, refresh_token, client, request, *args, **kwargs):
        taken = super().validate_refresh_token(refresh_token, client, request, *args, **kwargs)
        if not taken:
            row = by_value(RefreshToken, refresh_token)
            counts["reuse_revocations"] += int(row is not None and row.pk in self.rotated)
        # The library does not look at this; a deployment that disables accounts adds it.
        return taken and request.user.is_active

    def _create_refresh_token(self, request, code, access_token, previous):
        if previous is not None:
            counts["rotations"] += 1
            self.rotated.add(previous.pk)
        return super()._create_refresh_token(request, code, access_token, previous)


def by_value(model, token):
    # The newest row, since a checksum is unique among the unrevoked only.
    return model.objects.filter(token_checksum=sha256(token.encode()).hexdigest()).order_by("-pk").first()


def show_user(request):
    return JsonResponse({"user": request.resource_owner.username})


guard = {"scopes": ["read"], "validator_cls": Validator}
urlpatterns = [
    path("api/me", protected_resource(**guard, advertise_metadata=True)(show_user)),
    path("api/plain", protected_resource(**guard)(show_user)),
    path("o/", include("oauth2_provider.urls", namespace="oauth2_provider")),
]


def prepare():
    call_command("migrate", run_syncdb=True, verbosity=0)
    for name in ("alice", "bob"):
        User.objects.create_user(name)
    common = {"authorization_grant_type": "authorization-code", "redirect_uris": "http://127.0.0.1/cb"}
    Application.objects.create(client_id="pub", client_type="public", **common)
    Application.objects.create(client_id="conf-basic", client_type="confidential", client_secret="conf-secret", **common)
    apply()


# ===== controls =====


def seed(user="alice", client="pub", scope="read"):
    owner, application, family = User.objects.get(username=user), Application.objects.get(client_id=client), uuid.uuid4()
    ttl = settings["accessTtl"]
    common = {"user": owner, "application": application}
    access = AccessToken.objects.create(
        token=generate_token(), scope=scope, expires=timezone.now() + timedelta(seconds=ttl), **common
    )
    refresh = RefreshToken.objects.create(token=generate_token(), access_token=access, token_family=family, **common)
    tokens = {"access_token": access.token, "refresh_token": refresh.token, "token_type": "Bearer"}
    return tokens | {"expires_in": ttl, "scope": scope, "grant_id": str(family)}


def lookup(token):
    for model in (AccessToken, RefreshToken):
        row = by_value(model, token)
        if row is not None:
            found = {"kind": model.__name__, "user": row.user.username, "client": row.application.client_id}
            family = getattr(row, "token_family", None)
            # An access token that is revoked is deleted.
            return found | {"grant_id": family and str(family), "revoked": getattr(row, "revoked", None) is not None}
    return None


def activate(user, active):
    User.objects.filter(username=user).update(is_active=active)
    return {"active": active}


def revoke_grant(grant_id):
    RefreshToken.revoke_family(uuid.UUID(grant_id))
    return {"revoked": grant_id}


controls = {
    "/seed": seed,
    "/lookup": lookup,
    "/disable": lambda user: activate(user, False),
    "/enable": lambda user: activate(user, True),
    "/revoke-grant": revoke_grant,
    "/set": lambda **changes: change(changes),
    "/counts": lambda: counts,
    "/reset": lambda: counts.update(dict.fromkeys(counts, 0)) or counts,
}

# ===== the wire =====

# A database in memory is one connection, which the threads take in turn. So no two refreshes ever cross in here: of two
# with the same token the second is a reuse (or, within the grace period, a repeat), each time.
turn = threading.Lock()
prepare()
connection = connections["default"]
connection.inc_thread_sharing()
application = get_wsgi_application()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 60

    def setup(self):
        super().setup()
        connections["default"] = connection  # of this thread
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def log_message(self, *_):
        pass

    def handle(self):
        # A client that hangs up in mid-request is part of many tests.
        try:
            super().handle()
        except ConnectionError:
            self.close_connection = True

    def read(self):
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def reply(self, status, reason, headers, body):
        self.send_response(status, reason)
        for name, value in headers:
            if name.lower() != "content-length":
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Issuer(Handler):
    def do_GET(self):
        body, started = self.read(), []
        where, _, query = self.path.partition("?")
        host, port = self.server.server_address
        environ = {
            "CONTENT_LENGTH": str(len(body)),
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "PATH_INFO": unquote(where, "iso-8859-1"),
            "QUERY_STRING": query,
            "REMOTE_ADDR": self.client_address[0],
            "REQUEST_METHOD": self.command,
            "SCRIPT_NAME": "",
            "SERVER_NAME": host,
            "SERVER_PORT": str(port),
            "SERVER_PROTOCOL": self.request_version,
            "wsgi.errors": sys.stderr,
            "wsgi.input": io.BytesIO(body),
            "wsgi.multiprocess": False,
            "wsgi.multithread": True,
            "wsgi.run_once": False,
            "wsgi.url_scheme": "http",
            "wsgi.version": (1, 0),
        }
        for name, value in self.headers.items():
            if name.lower() not in ("content-type", "content-length"):
                environ["HTTP_" + name.upper().replace("-", "_")] = value

        with turn:
            response = application(environ, lambda status, headers, exc_info=None: started.extend((status, headers)))
            answer = b"".join(response)
            response.close()
            (code, _, reason), headers = started[0].partition(" "), started[1]
            drop, delay = self.count(where, body, int(code))
        if delay:
            time.sleep(delay / 1000)
        if drop:
            self.close_connection = True  # and nothing was written
        else:
            self.reply(int(code), reason, headers, answer)

    do_POST = do_GET

    def count(self, where, body, status):
        """What becomes of the answer: whether it is lost, and how late it is."""
        if where.startswith("/api/"):
            counts["api_requests"] += 1
            if f"api_{status}" in counts:
                counts[f"api_{status}"] += 1
        if where == "/o/revoke_token/":
            counts["revocation_requests"] += 1
        if where != "/o/token/" or self.command != "POST":
            return False, 0
        counts["token_requests"] += 1
        refreshed = parse_qs(body.decode()).get("grant_type") == ["refresh_token"] and status == 200
        counts["refresh_success"] += int(refreshed)
        drop = settings["dropAfterToken"] > 0
        settings["dropAfterToken"] -= int(drop)
        return drop, settings["answerDelayMs"]


class Control(Handler):
    def do_POST(self):
        body = self.read()
        try:
            with turn:
                value = controls[self.path](**json.loads(body or b"{}"))
                answer = json.dumps(value if value is not None else {"error": "nothing is known of it"}).encode()
            status = 200 if value is not None else 404
        except Exception as error:  # a mistake in a test, which its helper shows
            status, answer = 400, json.dumps({"error": repr(error)}).encode()
        self.reply(status, None, [("Content-Type", "application/json")], answer)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024


def listen(handler, name):
    server = Server(("127.0.0.1", int(os.environ.get(name, "0"))), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_address[1]}"


print(f"ready issuer={listen(Issuer, 'PORT')} ctl={listen(Control, 'CTL_PORT')}", flush=True)
threading.Event().wait()
