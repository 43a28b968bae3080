"""What users of Singer run: tap-salesforce by the Bulk API, piped into pipelinewise-target-postgres, which loads by COPY.

Called twice with the Python that has the tap. `catalog ADDRESS FOLDER OBJECT FIELDS` asks the org what it has and chooses an object
and its fields, which users do once; `ADDRESS FOLDER DATABASE TARGET` is the job, where TARGET is the target's program. The tap signs
in at login.salesforce.com and by a refresh token alone; what is below leads it to the sandbox, signs it in as the other peers sign
in, and changes nothing else.
"""

import json
import os
import subprocess
import sys
from urllib.parse import urlsplit, urlunsplit

import requests

CONFIG = {"client_id": "sandbox", "client_secret": "sandbox-secret", "refresh_token": "none", "start_date": "2000-01-01T00:00:00Z",
          "api_type": "BULK", "select_fields_by_default": False}
GRANT = "grant_type=client_credentials&client_id=sandbox&client_secret=sandbox-secret"


def tap(address, arguments):
    """Runs the tap in this process."""
    to, plain = urlsplit(address), requests.adapters.HTTPAdapter.send

    def send(self, request, *rest, **options):
        parts = urlsplit(request.url)
        if parts.hostname.endswith("salesforce.com"):
            request.url = urlunsplit((to.scheme, to.netloc, parts.path, parts.query, ""))
            request.prepare_body(GRANT, None)
        return plain(self, request, *rest, **options)

    requests.adapters.HTTPAdapter.send = send
    import tap_salesforce

    sys.argv = ["tap-salesforce", *arguments]
    tap_salesforce.main()


def tap_command(address, folder, *arguments):
    return [sys.executable, __file__, "tap", address, "--config", os.path.join(folder, "tap.json"), *arguments]


def written(folder, name, value):
    path = os.path.join(folder, name)
    with open(path, "w", encoding="utf-8") as file:
        json.dump(value, file)
    return path


def catalog(address, folder, wanted, fields):
    os.makedirs(folder, exist_ok=True)
    written(folder, "tap.json", CONFIG)
    found = json.loads(subprocess.run(tap_command(address, folder, "--discover"), capture_output=True, check=True).stdout)
    streams = [stream for stream in found["streams"] if stream["stream"] == wanted]
    for entry in streams[0]["metadata"]:
        breadcrumb = entry["breadcrumb"]
        entry["metadata"]["selected"] = not breadcrumb or breadcrumb[1] in fields
    written(folder, "catalog.json", {"streams": streams})


def job(address, folder, database, target):
    at = urlsplit(database)
    config = written(folder, "target.json", {
        "host": at.hostname, "port": at.port, "user": at.username, "password": at.password or "none", "dbname": at.path.strip("/"),
        "default_target_schema": "bench_singer"})
    listed = os.path.join(folder, "catalog.json")
    with subprocess.Popen(tap_command(address, folder, "--properties", listed), stdout=subprocess.PIPE) as source:
        loaded = subprocess.run([target, "--config", config], stdin=source.stdout, stdout=subprocess.DEVNULL, check=False)
        source.stdout.close()
    sys.exit(source.returncode or loaded.returncode)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["tap", address, *arguments]:
            tap(address, arguments)
        case ["catalog", address, folder, wanted, fields]:
            catalog(address, folder, wanted, fields.split(","))
        case [address, folder, database, target]:
            job(address, folder, database, target)
        case _:
            sys.exit(__doc__)
