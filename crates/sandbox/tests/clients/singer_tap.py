"""tap-salesforce (Singer) against the sandbox: discovery, REST and Bulk extraction, bookmarks, token rotation.

Called with the sandbox's address. The tap signs in at login.salesforce.com and nowhere else; the adapter below leads
those requests to the sandbox and changes nothing else.
"""

import json
import os
import subprocess
import sys
import tempfile
from urllib.parse import urlsplit, urlunsplit

ADDRESS = urlsplit(sys.argv[1])
SELECTED = ("Account", "Contact")


def run_tap(arguments):
    """Runs the tap in this process."""
    import requests

    plain = requests.adapters.HTTPAdapter.send

    def send(self, request, *args, **kwargs):
        parts = urlsplit(request.url)
        if parts.hostname.endswith("salesforce.com"):
            request.url = urlunsplit((ADDRESS.scheme, ADDRESS.netloc, parts.path, parts.query, ""))
        return plain(self, request, *args, **kwargs)

    requests.adapters.HTTPAdapter.send = send
    import tap_salesforce

    sys.argv = ["tap-salesforce", *arguments]
    tap_salesforce.main()


def tap(*arguments):
    environment = {**os.environ, "NO_PROXY": "127.0.0.1"}
    done = subprocess.run([sys.executable, __file__, sys.argv[1], "--tap", *arguments], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def config(folder, api, refresh="5Aep-for-the-tap"):
    path = os.path.join(folder, "config.json")
    with open(path, "w", encoding="utf-8") as file:
        json.dump({"client_id": "sandbox", "client_secret": "sandbox-secret", "refresh_token": refresh,
                   "start_date": "2020-01-01T00:00:00Z", "api_type": api, "select_fields_by_default": True}, file)
    return path


def refresh_token(path):
    with open(path, encoding="utf-8") as file:
        return json.load(file)["refresh_token"]


def extract(folder, api, token, state=None):
    path = config(folder, api, token)
    catalog = json.loads(tap("--config", path, "--discover"))
    for stream in catalog["streams"]:
        for entry in stream["metadata"]:
            if entry["breadcrumb"] == []:
                entry["metadata"]["selected"] = stream["stream"] in SELECTED
    listed = os.path.join(folder, "catalog.json")
    with open(listed, "w", encoding="utf-8") as file:
        json.dump(catalog, file)
    arguments = ["--config", path, "--properties", listed]
    if state is not None:
        stored = os.path.join(folder, "state.json")
        with open(stored, "w", encoding="utf-8") as file:
            json.dump(state, file)
        arguments += ["--state", stored]
    messages = [json.loads(line) for line in tap(*arguments).splitlines() if line.startswith("{")]
    records = {}
    for message in messages:
        if message["type"] == "RECORD":
            records.setdefault(message["stream"], {})[message["record"]["Id"]] = message["record"]
    states = [message["value"] for message in messages if message["type"] == "STATE"]
    return catalog, records, states[-1], refresh_token(path)


def main():
    with tempfile.TemporaryDirectory() as folder:
        catalog, rest, state, token = extract(folder, "REST", "5Aep-for-the-tap")
        account = next(stream for stream in catalog["streams"] if stream["stream"] == "Account")
        keys = next(entry["metadata"] for entry in account["metadata"] if entry["breadcrumb"] == [])
        assert keys["table-key-properties"] == ["Id"] and "SystemModstamp" in keys["valid-replication-keys"], keys
        assert account["schema"]["properties"]["Customer_No__c"]["type"] == ["null", "string"], account["schema"]
        print("tap-salesforce: discovery as in an org")
        assert token != "5Aep-for-the-tap", "the refresh token was rotated"
        print("tap-salesforce: rotation as in an org")
        assert len(rest["Account"]) == 2500 and len(rest["Contact"]) == 30, {name: len(found) for name, found in rest.items()}
        sample = next(iter(rest["Contact"].values()))
        assert sample["AccountId"] in rest["Account"] and sample["LastName"] == "Öz \"x\", y", sample
        print("tap-salesforce: rest as in an org")
        _, bulk, _, token = extract(folder, "BULK", token)
        assert set(bulk["Account"]) == set(rest["Account"]) and set(bulk["Contact"]) == set(rest["Contact"])
        same = next(iter(bulk["Contact"]))
        assert bulk["Contact"][same]["LastName"] == rest["Contact"][same]["LastName"]
        print("tap-salesforce: bulk as in an org")
        later, again, _, _ = extract(folder, "REST", token, state)
        assert later["streams"], "the catalog is there again"
        # The bookmark is the newest change, which is read again.
        assert 1 <= len(again.get("Account", {})) <= 2500, len(again.get("Account", {}))
        print("tap-salesforce: bookmarks as in an org")


if __name__ == "__main__":
    if sys.argv[2:3] == ["--tap"]:
        run_tap(sys.argv[3:])
    else:
        main()
