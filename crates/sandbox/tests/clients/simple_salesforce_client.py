"""simple-salesforce against the sandbox: sign-in, records, queries, Bulk 2.0, describe, refusals.

Called with the sandbox's address. The library only speaks https to *.salesforce.com or an instance; the
adapter below leads its requests to the sandbox and changes nothing else.
"""

import datetime
import sys
from urllib.parse import urlsplit, urlunsplit

import requests
from simple_salesforce import Salesforce
from simple_salesforce.exceptions import (
    SalesforceAuthenticationFailed,
    SalesforceExpiredSession,
    SalesforceMalformedRequest,
    SalesforceResourceNotFound,
)

ADDRESS = urlsplit(sys.argv[1])


class Loopback(requests.adapters.HTTPAdapter):
    """Sends every request to the sandbox."""

    def send(self, request, *args, **kwargs):
        parts = urlsplit(request.url)
        request.url = urlunsplit((ADDRESS.scheme, ADDRESS.netloc, parts.path, parts.query, ""))
        return super().send(request, *args, **kwargs)


def session():
    made = requests.Session()
    made.trust_env = False
    made.mount("https://", Loopback())
    return made


def sign_in(secret="sandbox-secret"):
    return Salesforce(consumer_key="sandbox", consumer_secret=secret, domain="bicycles.my", session=session(), version="66.0")


def refused(kind, call, *parts):
    """Expects `call` to raise `kind`, its content saying all `parts`."""
    try:
        call()
    except kind as error:
        text = str(error) + str(getattr(error, "content", ""))
        for part in parts:
            assert part in text, (part, text)
        return error
    raise AssertionError(f"{kind.__name__} was expected")


def records(sf):
    made = sf.Account.create({"Name": "Velo Köln", "Customer_No__c": "P-1", "AnnualRevenue": 12})
    assert made["success"] and len(made["id"]) == 18 and made["errors"] == [], made
    account = sf.Account.get(made["id"])
    assert account["attributes"]["type"] == "Account" and account["Name"] == "Velo Köln", account
    assert account["AnnualRevenue"] == 12.0 and account["CreatedDate"].endswith("+0000"), account
    assert sf.Account.update(made["id"], {"Name": "Velo", "AnnualRevenue": None}) == 204
    again = sf.Account.get_by_custom_id("Customer_No__c", "P-1")
    assert (again["Name"], again["AnnualRevenue"]) == ("Velo", None), again
    assert sf.Account.upsert("Customer_No__c/P-1", {"Name": "Velo 2"}) in (200, 204)
    assert sf.Account.upsert("Customer_No__c/P-2", {"Name": "Second"}) == 201
    assert sf.Account.delete(made["id"]) == 204
    refused(SalesforceResourceNotFound, lambda: sf.Account.get(made["id"]), "ENTITY_IS_DELETED")
    refused(SalesforceResourceNotFound, lambda: sf.Account.delete(made["id"]), "ENTITY_IS_DELETED")


def refusals(sf):
    refused(SalesforceAuthenticationFailed, lambda: sign_in("wrong"), "invalid_client")
    refused(SalesforceMalformedRequest, lambda: sf.Account.create({}), "REQUIRED_FIELD_MISSING", "Name")
    refused(SalesforceMalformedRequest, lambda: sf.Account.create({"Name": "x", "Nope__c": 1}), "INVALID_FIELD", "Nope__c")
    refused(SalesforceMalformedRequest, lambda: sf.Account.create({"Name": "x" * 256}), "STRING_TOO_LONG", "255")
    refused(SalesforceMalformedRequest, lambda: sf.query("SELECT Nope FROM Account"), "INVALID_FIELD", "Nope")
    refused(SalesforceMalformedRequest, lambda: sf.query("SELECT Id FROM Nope"), "INVALID_TYPE", "Nope")
    refused(SalesforceMalformedRequest, lambda: sf.query("SELECT Id FORM Account"), "MALFORMED_QUERY", "FORM")
    refused(SalesforceResourceNotFound, lambda: sf.Nope__c.describe(), "NOT_FOUND")
    stale = Salesforce(instance_url="https://127.0.0.1", session_id="00D000000000000!stale", session=session(), version="66.0")
    refused(SalesforceExpiredSession, lambda: stale.query("SELECT Id FROM Account"), "INVALID_SESSION_ID")


def descriptions(sf):
    names = {line["name"]: line for line in sf.describe()["sobjects"]}
    assert names["Account"]["keyPrefix"] == "001" and names["Bike_Order__c"]["custom"], "the global describe"
    fields = {field["name"]: field for field in sf.Account.describe()["fields"]}
    assert fields["Customer_No__c"]["externalId"] and fields["Customer_No__c"]["idLookup"], fields["Customer_No__c"]
    assert fields["Name"]["length"] == 255 and fields["Id"]["type"] == "id"
    stage = {field["name"]: field for field in sf.Bike_Order__c.describe()["fields"]}["Stage__c"]
    assert [value["value"] for value in stage["picklistValues"]], stage
    limits = sf.limits()["DailyApiRequests"]
    assert limits["Max"] >= limits["Remaining"] >= 0, limits
    assert sf.api_usage["api-usage"].used > 0, sf.api_usage


def bulk(sf):
    rows = [{"Name": f"Bulk \"{n}\", Ä", "Customer_No__c": f"B-{n:04}", "BillingCity": "X\nY"} for n in range(2500)]
    job = sf.bulk2.Account.insert(records=rows)[0]
    assert (int(job["numberRecordsProcessed"]), int(job["numberRecordsFailed"])) == (2500, 0), job
    job = sf.bulk2.Account.upsert(
        records=[{"Customer_No__c": "B-0000", "Name": "Changed"}, {"Customer_No__c": "B-new", "Name": ""}],
        external_id_field="Customer_No__c",
    )[0]
    assert int(job["numberRecordsFailed"]) == 1, job
    failed = sf.bulk2.Account.get_failed_records(job["job_id"])
    assert "REQUIRED_FIELD_MISSING" in failed and "B-new" in failed, failed
    assert "B-0000" in sf.bulk2.Account.get_successful_records(job["job_id"])
    pages = list(sf.bulk2.Account.query("SELECT Customer_No__c, Name, BillingCity FROM Account WHERE Customer_No__c LIKE 'B-%'", max_records=1000))
    assert len(pages) == 3, len(pages)
    lines = sum(page.count('"B-') for page in pages)
    assert lines == 2500, lines
    assert '"X\nY"' in pages[0], "a line break inside a value"


def queries(sf):
    page = sf.query("SELECT Id, Name FROM Account WHERE Customer_No__c LIKE 'B-%' ORDER BY Customer_No__c")
    assert (page["totalSize"], page["done"], len(page["records"])) == (2500, False, 2000), page["totalSize"]
    rest = sf.query_more(page["nextRecordsUrl"], identifier_is_url=True)
    assert rest["done"] and len(rest["records"]) == 500, len(rest["records"])
    every = sf.query_all("SELECT Id FROM Account WHERE Customer_No__c LIKE 'B-%'")
    assert len({record["Id"] for record in every["records"]}) == 2500
    assert sum(1 for _ in sf.query_all_iter("SELECT Id FROM Account WHERE Customer_No__c LIKE 'B-%'")) == 2500
    account = page["records"][1]["Id"]
    sf.Contact.create({"LastName": "O'Neil", "AccountId": account})
    sf.Contact.create({"LastName": "Stray"})
    up = sf.query("SELECT LastName, Account.Name, Account.Owner.Name FROM Contact ORDER BY LastName")["records"]
    assert up[0]["Account"]["Name"].startswith("Bulk") and up[0]["Account"]["Owner"]["Name"], up[0]
    assert up[1]["Account"] is None, up[1]
    down = sf.query(f"SELECT Name, (SELECT LastName FROM Contacts) FROM Account WHERE Id = '{account}'")["records"][0]
    assert down["Contacts"]["records"][0]["LastName"] == "O'Neil" and down["Contacts"]["totalSize"] == 1, down
    count = sf.query("SELECT COUNT(Id) n, BillingCity c FROM Account WHERE Customer_No__c LIKE 'B-%' GROUP BY BillingCity")
    assert count["records"][0]["n"] == 2500 and count["records"][0]["attributes"]["type"] == "AggregateResult", count
    deleted = sf.query("SELECT Id FROM Account WHERE IsDeleted = true", include_deleted=True)
    assert deleted["totalSize"] == 1, deleted


def more(sf):
    """What is used less often: Bulk 1.0, search, replication, Tooling, plain REST calls."""
    done = sf.bulk.Account.insert([{"Name": f"Classic {n}"} for n in range(30)] + [{"Site": "x"}], batch_size=10)
    assert [row["success"] for row in done].count(True) == 30 and not done[-1]["success"], done[-1]
    assert done[-1]["errors"][0]["statusCode"] == "REQUIRED_FIELD_MISSING", done[-1]
    changed = sf.bulk.Account.update([{"Id": row["id"], "Site": "classic"} for row in done if row["success"]])
    assert all(row["success"] for row in changed), changed
    rows = sf.bulk.Account.query("SELECT Id, Name, CreatedDate, Owner.Name FROM Account WHERE Site = 'classic'")
    assert len(rows) == 30 and rows[0]["Owner"]["Name"] and isinstance(rows[0]["CreatedDate"], int), rows[0]
    gone = sf.bulk.Account.hard_delete([{"Id": rows[0]["Id"]}])
    assert gone[0]["success"], gone
    gone = sf.bulk.Account.delete([{"Id": row["Id"]} for row in rows[1:]])
    assert all(row["success"] for row in gone), gone
    found = sf.search("FIND {Stray} IN NAME FIELDS RETURNING Contact(LastName)")
    assert found["searchRecords"][0]["LastName"] == "Stray", found
    assert sf.quick_search("Stray")["searchRecords"], "a search without RETURNING"
    now = datetime.datetime.now(datetime.timezone.utc)
    hour = datetime.timedelta(hours=1)
    assert len(sf.Contact.updated(now - hour, now + hour)["ids"]) == 2
    assert sf.Account.deleted(now - hour, now + hour)["deletedRecords"], "deleted accounts"
    assert sf.restful("limits")["DailyApiRequests"]["Max"] > 0
    assert sf.restful("recent") in (None, [])
    assert sf.toolingexecute("query?q=SELECT+Id+FROM+ApexClass")["totalSize"] == 0
    assert sf.is_sandbox() in (True, False)
    assert sf.Account.describe_layout("012000000000000AAA")["detailLayoutSections"], "a layout"
    user = sf.query("SELECT Id FROM User LIMIT 1")["records"][0]["Id"]
    sf.set_password(user, "a-new-password")


if __name__ == "__main__":
    connection = sign_in()
    for part in (records, refusals, descriptions, bulk, queries, more):
        part(connection)
        print(f"simple-salesforce: {part.__name__} as in an org")
