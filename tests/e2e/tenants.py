# SPDX-License-Identifier: Apache-2.0
"""Organisations, projects and keys of a running server, made through its admin API.

    server = sluice(CONFIG + provider_config(provider))
    api = Api(server)                        # speaks with the platform's key
    key = api.make("keys", name="ci")        # the object as a dict; key["key"] is the secret
    blue = Tenant(api)                       # an organisation with a project, keys and a user
    api.call("GET", "/admin/keys", key=blue.project_admin)     # any request, any key
"""
from raw_http import RawClient, request_bytes

PLATFORM = "sk-of-the-whole-platform"
CONFIG = f'admin_key: "{PLATFORM}"\nkeys: {{required: true}}\n'


def bearer(key):
    return [("Authorization", f"Bearer {key}")]


def send(port, method, target, body=None, headers=()):
    with RawClient(port) as client:
        client.send(request_bytes(method, target, body, headers))
        return client.read_response(head_only=method == "HEAD")


class Api:
    def __init__(self, server, key=PLATFORM):
        self.server, self.key = server, key

    def call(self, method, target, body=None, key=None, headers=()):
        return send(self.server.admin_port, method, target, body,
                    [*bearer(key or self.key), *headers])

    def make(self, kind, **members):
        answer = self.call("POST", f"/admin/{kind}", members)
        assert answer.status == 201, answer
        return answer.json

    def change(self, kind, id, **members):
        answer = self.call("PATCH", f"/admin/{kind}/{id}", members)
        assert answer.status == 200, answer
        return answer.json

    def remove(self, kind, id):
        answer = self.call("DELETE", f"/admin/{kind}/{id}")
        assert answer.status == 200, answer

    def rotate(self, id, **members):
        answer = self.call("POST", f"/admin/keys/{id}/rotate", members)
        assert answer.status == 200, answer
        return answer.json

    def list(self, kind, query=""):
        answer = self.call("GET", f"/admin/{kind}{query}")
        assert answer.status == 200, answer
        return answer.json["data"]


class Tenant:
    """`key` asks models; `project_admin` and `org_admin` are secrets, too; `ids` has one id of each
    type of object."""

    def __init__(self, api, name="tenant"):
        self.org = api.make("orgs", name=name)["id"]
        self.project = api.make("projects", name=name, org=self.org)["id"]
        key = api.make("keys", name=name, project=self.project)
        self.key = key["key"]
        self.project_admin = api.make("keys", name="boss", project=self.project,
                                      scopes=["admin"])["key"]
        self.org_admin = api.make("keys", name="chief", org=self.org, scopes=["admin"])["key"]
        user = api.make("users", user="somebody", project=self.project)["id"]
        self.ids = {"orgs": self.org, "projects": self.project, "keys": key["id"], "users": user}
