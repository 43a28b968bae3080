"""What users write with simple-salesforce: a table as a CSV file by COPY, and that by a Bulk 2.0 upsert.

Called with the sandbox's address, PostgreSQL's address, the COPY statement, the object and its external id.
"""

import sys
import tempfile
from urllib.parse import urlsplit, urlunsplit

import psycopg
import requests
from simple_salesforce import Salesforce

address, database, copy, name, external = sys.argv[1:6]


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
with tempfile.NamedTemporaryFile("wb", suffix=".csv") as file, psycopg.connect(database) as db:
    with db.cursor().copy(copy) as rows:
        for data in rows:
            file.write(data)
    file.flush()
    results = getattr(org.bulk2, name).upsert(file.name, external_id_field=external)
failed = sum(int(result["numberRecordsFailed"]) for result in results)
print(f"{failed} failed")
