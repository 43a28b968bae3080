"""How both programs with simple-salesforce sign in to the sandbox."""

from urllib.parse import urlsplit, urlunsplit

import requests
from simple_salesforce import Salesforce


def sign_in(address):
    class Loopback(requests.adapters.HTTPAdapter):
        """Leads every request to the sandbox: the library speaks https alone."""

        def send(self, request, *args, **kwargs):
            parts, to = urlsplit(request.url), urlsplit(address)
            request.url = urlunsplit((to.scheme, to.netloc, parts.path, parts.query, ""))
            return super().send(request, *args, **kwargs)

    session = requests.Session()
    session.trust_env = False
    session.mount("https://", Loopback())
    grant = {"grant_type": "client_credentials", "client_id": "sandbox", "client_secret": "sandbox-secret"}
    token = session.post(f"{address}/services/oauth2/token", data=grant).json()["access_token"]
    return Salesforce(instance="sandbox.example", session_id=token, session=session, version="66.0")
