"""An OpenID Connect provider that knows two people: says its port, and ends when nobody listens."""

import sys

from oidc_provider_mock import User, run_server_in_thread

people = [
    User(sub="ada", claims={"email": "ada@example.com", "groups": ["staff", "integration"]}),
    User(sub="eve", claims={"email": "eve@example.com", "groups": ["sales"]}),
]
with run_server_in_thread(require_nonce=True, user_claims=people) as server:
    print(server.server_port, flush=True)
    sys.stdin.read()
