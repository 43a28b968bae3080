"""What users write with simple-salesforce: the results of a Bulk 2.0 query as files, as its documentation has it for large
results, and each of them into PostgreSQL by COPY.

Called with the sandbox's address, PostgreSQL's address, the query, the COPY statement, and a statement before and one after it.
"""

import sys
import tempfile
import urllib.parse
from urllib.parse import urlsplit, urlunsplit

import psycopg
import requests
from simple_salesforce import Salesforce

address, database, query, copy, before, after = sys.argv[1:7]


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
org = Salesforce(instance="sandbox.example", session_id=token, session=session, version="66.0")
with tempfile.TemporaryDirectory() as folder, psycopg.connect(database) as db:
    db.execute(before)
    for page in org.bulk2.Account.download(query, path=folder, max_records=250000):
        with open(page["file"], "rb") as file, db.cursor().copy(copy) as into:
            while data := file.read(1 << 16):
                into.write(data)
    db.execute(after)
