"""The stubs of the Pub/Sub API from PyPI, and the client that they come with, against the sandbox.

Called with the sandbox's address. The client opens its channel by TLS and signs in by SOAP; here the channel is in the
clear and the session comes by OAuth, all else is its own.
"""

import json
import queue
import sys
import urllib.parse
import urllib.request

import grpc
from pysfpubsub import pubsub_api_pb2 as pb2
from pysfpubsub import pubsub_api_pb2_grpc as pb2_grpc
from pysfpubsub.pubsub import Client

address = sys.argv[1]


def fetch(path, data=None, token=None):
    headers = {"content-type": "application/json"} if token else {}
    if token:
        headers["authorization"] = f"Bearer {token}"
    request = urllib.request.Request(address + path, data=data, headers=headers)
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


grant = {"grant_type": "client_credentials", "client_id": "sandbox", "client_secret": "sandbox-secret"}
token = fetch("/services/oauth2/token", urllib.parse.urlencode(grant).encode())["access_token"]
org = fetch("/services/data/v66.0/query?q=SELECT+Id+FROM+Organization", token=token)["records"][0]["Id"]

client = Client(address, "", "", "127.0.0.1", 1)
client.stub = pb2_grpc.PubSubStub(grpc.insecure_channel(urllib.parse.urlparse(address).netloc))
client.metadata = (("accesstoken", token), ("instanceurl", address), ("tenantid", org))


def create(sobject, **fields):
    return fetch(f"/services/data/v66.0/sobjects/{sobject}", json.dumps(fields).encode(), token)["id"]


def decoded(event):
    return client.decode(client.get_schema_json(event.event.schema_id), event.event.payload)


class Stream:
    """A stream of requests that are sent when asked for."""

    def __init__(self, call, first):
        self.requests = queue.Queue()
        self.requests.put(first)
        self.answers = call(iter(self.requests.get, None), metadata=client.metadata)

    def ask(self, request):
        self.requests.put(request)

    def end(self):
        self.requests.put(None)
        self.answers.cancel()


def topics():
    info = client.get_topic("/data/AccountChangeEvent")
    assert (info.can_subscribe, info.can_publish) == (True, False) and info.schema_id and info.tenant_guid and info.rpc_id
    schema = json.loads(client.get_schema_json(info.schema_id))
    names = [field["name"] for field in schema["fields"]]
    assert names[0] == "ChangeEventHeader" and "BillingAddress" in names and "Id" not in names, names
    assert client.get_topic("/event/Manufacturing_Event__e").can_publish


def demand():
    """As many events as were asked for, and no more until more are."""
    for number in range(5):
        create("Account", Name=f"Number {number}")
    fetch_request = client.make_fetch_request("/data/AccountChangeEvent", "EARLIEST", b"", 2)
    stream = Stream(client.stub.Subscribe, fetch_request)
    first = next(stream.answers)
    assert [decoded(event)["Name"] for event in first.events] == ["Number 0", "Number 1"], first
    assert first.pending_num_requested == 0 and first.latest_replay_id == first.events[-1].replay_id
    stream.ask(pb2.FetchRequest(topic_name="/data/AccountChangeEvent", num_requested=10))
    second = next(stream.answers)
    assert [decoded(event)["Name"] for event in second.events] == ["Number 2", "Number 3", "Number 4"]
    assert second.pending_num_requested == 7
    create("Account", Name="Later")
    assert decoded(next(stream.answers).events[0])["Name"] == "Later"
    stream.end()
    # The same stream may not change its topic, nor ask for nothing.
    for bad in (pb2.FetchRequest(topic_name="/data/ContactChangeEvent", num_requested=1), pb2.FetchRequest(num_requested=0)):
        stream = Stream(client.stub.Subscribe, client.make_fetch_request("/data/AccountChangeEvent", "LATEST", b"", 1))
        stream.ask(bad)
        refused(lambda: next(stream.answers), grpc.StatusCode.INVALID_ARGUMENT)


def publishing():
    topic = "/event/Manufacturing_Event__e"
    schema_id = client.get_topic(topic).schema_id
    stream = Stream(client.stub.Subscribe, client.make_fetch_request(topic, "EARLIEST", b"", 10))
    event = {"CreatedDate": 0, "CreatedById": "", "Order_Id__c": "O-2", "Status__c": "Shipped"}
    good = client.format_payload(client.get_schema_json(schema_id), schema_id, event)
    bad = {"id": "second", "schema_id": schema_id, "payload": b"\xff\xff"}
    strange = {"id": "third", "schema_id": "none", "payload": good["payload"]}
    response = client.publish(topic, [good, bad, strange])
    assert response.schema_id == schema_id and response.results[0].replay_id
    assert [result.error.code for result in response.results] == [pb2.UNKNOWN, pb2.PUBLISH, pb2.PUBLISH]
    assert [result.correlation_key for result in response.results[1:]] == ["second", "third"]
    told = next(stream.answers)
    assert decoded(told.events[0])["Order_Id__c"] == "O-2" and told.events[0].replay_id == response.results[0].replay_id
    stream.end()
    stream = Stream(client.stub.PublishStream, pb2.PublishRequest(topic_name=topic, events=[good]))
    first = next(stream.answers)
    stream.ask(pb2.PublishRequest(events=[good, good]))
    assert len(first.results) == 1 and len(next(stream.answers).results) == 2
    stream.end()


def managed():
    """The server keeps what was committed."""
    first = pb2.ManagedFetchRequest(developer_name="Accounts", num_requested=3)
    stream = Stream(client.stub.ManagedSubscribe, first)
    events = next(stream.answers).events
    assert [decoded(event)["Name"] for event in events] == ["Number 0", "Number 1", "Number 2"]
    commit = pb2.CommitReplayRequest(commit_request_id="c1", replay_id=events[1].replay_id)
    stream.ask(pb2.ManagedFetchRequest(commit_replay_id_request=commit))
    answer = next(stream.answers).commit_response
    assert answer.commit_request_id == "c1" and not answer.HasField("error") and answer.process_time > 0
    stream.end()
    stream = Stream(client.stub.ManagedSubscribe, first)
    assert decoded(next(stream.answers).events[0])["Name"] == "Number 2"
    stream.end()


def refused(call, status, code=None):
    try:
        call()
    except grpc.RpcError as error:
        assert error.code() == status, error
        trailers = dict(error.trailing_metadata())
        assert trailers["rpc-id"] in error.details()
        assert code is None or trailers["error-code"] == f"sfdc.platform.eventbus.grpc.{code}", trailers
    else:
        raise AssertionError("it was not refused")


def refusals():
    refused(lambda: client.get_topic("/data/Nothing"), grpc.StatusCode.NOT_FOUND, "topic.not.found")
    refused(lambda: client.get_schema_json("none"), grpc.StatusCode.NOT_FOUND, "schema.not.found")
    corrupted = client.make_fetch_request("/data/AccountChangeEvent", "CUSTOM", b"abc", 1)
    stream = Stream(client.stub.Subscribe, corrupted)
    refused(lambda: next(stream.answers), grpc.StatusCode.INVALID_ARGUMENT, "subscription.fetch.replayid.corrupted")
    refused(lambda: client.publish("/data/AccountChangeEvent", []), grpc.StatusCode.PERMISSION_DENIED)
    known = client.metadata
    for at, value in ((0, "nobody's"), (2, "00D000000000000AAA")):
        client.metadata = tuple((key, value if place == at else old) for place, (key, old) in enumerate(known))
        refused(lambda: client.get_topic("/data/AccountChangeEvent"), grpc.StatusCode.UNAUTHENTICATED, "service.auth.error")
    client.metadata = known


for part in (topics, demand, publishing, managed, refusals):
    part()
    print(f"{part.__name__}: as in an org")
