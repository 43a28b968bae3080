# aiosfstream-ng, a CometD client from PyPI, against the sandbox: change events, platform events, channels of one's own,
# generic events and PushTopics, as they happen and replayed; refusals.
# Called with the sandbox's address.

import asyncio
import json
import sys
import urllib.request

from aiosfstream_ng import Client, ReplayMarkerStoragePolicy, ReplayOption
from aiosfstream_ng.auth import AuthenticatorBase
from aiosfstream_ng.exceptions import ServerError

address = sys.argv[1]
VERSION = "v66.0"


class ClientCredentials(AuthenticatorBase):
    async def _authenticate(self):
        form = b"grant_type=client_credentials&client_id=sandbox&client_secret=sandbox-secret"
        with urllib.request.urlopen(f"{address}/services/oauth2/token", form) as answer:
            return answer.status, json.load(answer)


def call(token, method, path, body=None):
    request = urllib.request.Request(f"{address}/services/data/{VERSION}{path}", method=method)
    request.add_header("Authorization", f"Bearer {token}")
    request.add_header("Content-Type", "application/json")
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(request, data) as answer:
        text = answer.read()
        return json.loads(text) if text else None


async def opened(replay):
    client = Client(ClientCredentials(), replay=replay, connection_timeout=30,
                    replay_storage_policy=ReplayMarkerStoragePolicy.AUTOMATIC)
    await client.open()
    return client, client.auth.access_token


async def receive(client):
    return await asyncio.wait_for(client.receive(), 30)


async def changes():
    markers = {}
    client, token = await opened(markers)
    await client.subscribe("/data/AccountChangeEvent")
    made = call(token, "POST", "/sobjects/Account", {"Name": "Vélo", "BillingCity": "Köln"})
    message = await receive(client)
    header = message["data"]["payload"]["ChangeEventHeader"]
    assert (header["changeType"], header["recordIds"]) == ("CREATE", [made["id"]]), message
    assert message["channel"] == "/data/AccountChangeEvent", message
    await client.close()
    # While nobody listened: the client goes on behind what it had.
    call(token, "PATCH", f"/sobjects/Account/{made['id']}", {"BillingCity": "Ulm"})
    client, token = await opened(markers)
    await client.subscribe("/data/AccountChangeEvent")
    message = await receive(client)
    assert message["data"]["payload"]["BillingAddress"] == {"City": "Ulm"}, message
    await client.unsubscribe("/data/AccountChangeEvent")
    await client.close()


async def channels():
    client, token = await opened(ReplayOption.NEW_EVENTS)
    await client.subscribe("/data/Sales__chn")
    made = call(token, "POST", "/sobjects/Account", {"Name": "Rad", "BillingCity": "Bonn", "AccountNumber": "A-1"})
    assert (await receive(client))["data"]["payload"]["Name"] == "Rad"
    # The channel adds a field that did not change; others do not see it.
    await client.subscribe("/data/AccountChangeEvent")
    call(token, "PATCH", f"/sobjects/Account/{made['id']}", {"BillingCity": "Rom"})
    told = [await receive(client), await receive(client)]
    told = {message["channel"]: message["data"]["payload"] for message in told}
    assert told["/data/Sales__chn"]["AccountNumber"] == "A-1", told
    assert "AccountNumber" not in told["/data/AccountChangeEvent"], told
    assert "AccountNumber" not in told["/data/Sales__chn"]["ChangeEventHeader"]["changedFields"], told
    # Another object, on the same channel.
    call(token, "POST", "/sobjects/Contact", {"LastName": "Öz"})
    assert (await receive(client))["data"]["payload"]["ChangeEventHeader"]["entityName"] == "Contact"
    await client.close()


async def platform():
    client, token = await opened(ReplayOption.NEW_EVENTS)
    await client.subscribe("/event/Manufacturing_Event__e")
    call(token, "POST", "/sobjects/Manufacturing_Event__e", {"Order_Id__c": "O-1", "Status__c": "Built"})
    payload = (await receive(client))["data"]["payload"]
    assert (payload["Order_Id__c"], payload["Status__c"]) == ("O-1", "Built"), payload
    await client.close()
    client, token = await opened(ReplayOption.ALL_EVENTS)
    await client.subscribe("/event/Manufacturing_Event__e")
    assert (await receive(client))["data"]["payload"] == payload
    await client.close()


async def topics():
    client, token = await opened(ReplayOption.NEW_EVENTS)
    call(token, "POST", "/sobjects/PushTopic", {
        "Name": "BonnAccounts", "Query": "SELECT Id, Name FROM Account WHERE BillingCity = 'Bonn'", "ApiVersion": 66.0,
        "NotifyForFields": "Referenced"})
    await client.subscribe("/topic/BonnAccounts")
    call(token, "POST", "/sobjects/Account", {"Name": "Elsewhere", "BillingCity": "Ulm"})
    made = call(token, "POST", "/sobjects/Account", {"Name": "Here", "BillingCity": "Bonn"})
    message = await receive(client)
    assert message["data"]["event"]["type"] == "created", message
    assert message["data"]["sobject"] == {"Id": made["id"], "Name": "Here"}, message
    # A field that the query does not name is told to nobody; one that it names is.
    call(token, "PATCH", f"/sobjects/Account/{made['id']}", {"AccountNumber": "A-2"})
    call(token, "PATCH", f"/sobjects/Account/{made['id']}", {"Name": "There"})
    message = await receive(client)
    assert (message["data"]["event"]["type"], message["data"]["sobject"]["Name"]) == ("updated", "There"), message
    call(token, "DELETE", f"/sobjects/Account/{made['id']}")
    message = await receive(client)
    assert (message["data"]["event"]["type"], message["data"]["sobject"]) == ("deleted", {"Id": made["id"]}), message
    await client.close()


async def generic():
    client, token = await opened(ReplayOption.NEW_EVENTS)
    made = call(token, "POST", "/sobjects/StreamingChannel", {"Name": "/u/notices"})
    await client.subscribe("/u/notices")
    pushed = call(token, "POST", f"/sobjects/StreamingChannel/{made['id']}/push",
                  {"pushEvents": [{"payload": "first", "userIds": []}, {"payload": "second"}]})
    assert pushed[0]["fanoutCount"] == -1, pushed
    told = [(await receive(client))["data"] for _ in range(2)]
    assert [one["payload"] for one in told] == ["first", "second"], told
    assert told[0]["event"]["replayId"] < told[1]["event"]["replayId"], told
    # One that is meant for somebody else, and one for us.
    me = urllib.request.Request(f"{address}/services/oauth2/userinfo", headers={"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(me) as answer:
        me = json.load(answer)["user_id"]
    other = "005000000000999"
    pushed = call(token, "POST", f"/sobjects/StreamingChannel/{made['id']}/push",
                  {"pushEvents": [{"payload": "theirs", "userIds": [other]}, {"payload": "ours", "userIds": [me]}]})
    assert [one["fanoutCount"] for one in pushed] == [0, 1], pushed
    assert pushed[1]["userOnlineStatus"] == {me: True}, pushed
    assert (await receive(client))["data"]["payload"] == "ours"
    await client.close()


async def refusals():
    client, token = await opened(ReplayOption.NEW_EVENTS)
    for channel in ("/data/NoSuchChangeEvent", "/event/No_Such__e", "/data/No__chn", "/topic/None", "/u/none"):
        try:
            await client.subscribe(channel)
            raise AssertionError(f"{channel} can be subscribed to")
        except ServerError as error:
            assert "does not exist" in str(error), error
    await client.close()


for part in (changes, channels, platform, topics, generic, refusals):
    asyncio.run(part())
    print(f"{part.__name__}: as in an org")
