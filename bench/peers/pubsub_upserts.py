"""What users write today: change events by the Pub/Sub API, each an upsert of its own in PostgreSQL.

Called with the sandbox's address, PostgreSQL's address and the seconds to listen. Prints how late the rows are.
"""

import json
import sys
import time
import urllib.parse
import urllib.request

import grpc
import psycopg
from pysfpubsub import pubsub_api_pb2_grpc as pb2_grpc
from pysfpubsub.pubsub import Client

address, database, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])


def fetch(path, data=None, token=None):
    request = urllib.request.Request(address + path, data=data, headers={"authorization": f"Bearer {token}"} if token else {})
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


grant = {"grant_type": "client_credentials", "client_id": "sandbox", "client_secret": "sandbox-secret"}
token = fetch("/services/oauth2/token", urllib.parse.urlencode(grant).encode())["access_token"]
org = fetch("/services/data/v66.0/query?q=SELECT+Id+FROM+Organization", token=token)["records"][0]["Id"]
client = Client(address, "", "", "127.0.0.1", 1)
client.stub = pb2_grpc.PubSubStub(grpc.insecure_channel(urllib.parse.urlparse(address).netloc))
client.metadata = (("accesstoken", token), ("instanceurl", address), ("tenantid", org))

db = psycopg.connect(database, autocommit=True)
db.execute("CREATE TEMP TABLE accounts (id text PRIMARY KEY, city text)")
lags, begun = [], []


def take(response, client):
    if response.pending_num_requested == 0:
        client.release_subscription_semaphore()
    for event in response.events:
        begun.append(time.time())
        record = client.decode(client.get_schema_json(event.event.schema_id), event.event.payload)
        header, address = record["ChangeEventHeader"], record.get("BillingAddress") or {}
        for id in header["recordIds"]:
            sql = "INSERT INTO accounts VALUES (%s, %s) ON CONFLICT (id) DO UPDATE SET city = excluded.city"
            db.execute(sql, (id, address.get("City")))
        lags.append(time.time() * 1000 - header["commitTimestamp"])


print("listening", flush=True)
end = time.time() + seconds
call = client.stub.Subscribe(
    client.fetch_req_stream("/data/AccountChangeEvent", "LATEST", b"", 100), metadata=client.metadata, timeout=seconds + 2
)
try:
    for response in call:
        take(response, client)
except grpc.RpcError as error:
    if error.code() != grpc.StatusCode.DEADLINE_EXCEEDED:
        raise
lags.sort()
at = lambda share: lags[min(len(lags) - 1, int(len(lags) * share))] if lags else float("nan")
rate = len(lags) / (time.time() - begun[0]) if begun else 0
print(f"peer, a Python client that upserts row by row: {len(lags)} events, {rate:.0f} a second; from commit to commit "
      f"p50 {at(0.5):.1f} ms, p95 {at(0.95):.1f} ms, p99 {at(0.99):.1f} ms, at most {at(1):.1f} ms")
