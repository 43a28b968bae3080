# zeep, a SOAP client from PyPI, by the sandbox's own WSDLs: signing in, records, queries with pages, search, merges, passwords,
# descriptions, refusals; Partner and Enterprise.
# Called with the sandbox's address.

import datetime
import sys

import zeep
from lxml import etree
from zeep.exceptions import Fault

address = sys.argv[1]
USER, PASSWORD = "admin@sandbox.example", "sandbox-password"


def refused(code, call, *arguments, **named):
    try:
        call(*arguments, **named)
    except Fault as fault:
        assert fault.code.endswith(f":{code}") and fault.message.startswith(f"{code}: "), (fault.code, fault.message)
        return fault
    raise AssertionError(f"{code} was not refused")


class Org:
    """A client that is signed in, with its session in every call."""

    def __init__(self, flavor, namespace):
        self.client = zeep.Client(f"{address}/services/wsdl/{flavor}")
        self.namespace = namespace
        login = self.client.service.login(USER, PASSWORD)
        assert login.passwordExpired is False and login.userInfo.userName == USER, login
        self.user = login.userId
        self.service = self.client.create_service(f"{{{namespace}}}SoapBinding", login.serverUrl)
        self.session = login.sessionId

    def header(self, name, **parts):
        return self.client.get_element(f"{{{self.namespace}}}{name}")(**parts)

    def call(self, name, *arguments, headers=(), **named):
        session = self.header("SessionHeader", sessionId=self.session)
        answer = self.service[name](*arguments, _soapheaders=[session, *headers], **named)
        # With a header in the answer zeep tells both.
        if hasattr(answer, "body"):
            limits = answer.header.LimitInfoHeader.limitInfo[0]
            assert limits.type == "API REQUESTS" and limits.current > 0, limits
            answer = answer.body
            parts = list(answer or [])
            return answer[parts[0]] if parts else None
        return answer


def partner():
    org = Org("partner", "urn:partner.soap.sforce.com")
    objects = "urn:sobject.partner.soap.sforce.com"
    sobject = org.client.get_type(f"{{{objects}}}sObject")

    def record(kind, fields, **fixed):
        elements = []
        for name, value in fields.items():
            element = etree.Element(f"{{{objects}}}{name}")
            element.text = str(value)
            elements.append(element)
        return sobject(type=kind, _value_1=elements, **fixed)

    def fields(found):
        # What has a type of its own comes as that.
        plain = [element for element in found._value_1 if hasattr(element, "tag")]
        return {element.tag.split("}")[1]: element.text for element in plain}

    made = org.call("create", [record("Account", {"Name": "Vélo & Co", "BillingCity": "Köln"}), record("Account", {"Industry": "x"})])
    assert [one.success for one in made] == [True, False], made
    assert made[1].errors[0].statusCode == "REQUIRED_FIELD_MISSING" and made[1].errors[0].fields == ["Name"], made
    account = made[0].id
    # All or none.
    none = org.call("create", [record("Account", {"Name": "One"}), record("Account", {})],
                    headers=[org.header("AllOrNoneHeader", allOrNone=True)])
    assert [one.success for one in none] == [False, False], none
    assert none[0].errors[0].statusCode == "ALL_OR_NONE_OPERATION_ROLLED_BACK", none
    # What is too long is refused, or cut where that is asked for.
    long = [record("Account", {"Name": "é" * 300}, Id=account)]
    assert org.call("update", long)[0].errors[0].statusCode == "STRING_TOO_LONG"
    assert org.call("update", long, headers=[org.header("AllowFieldTruncationHeader", allowFieldTruncation=True)])[0].success
    assert fields(org.call("query", "SELECT Name FROM Account").records[0])["Name"] == "é" * 255
    # An update, with a field that is emptied.
    done = org.call("update", [record("Account", {"Name": "Vélo"}, Id=account, fieldsToNull=["BillingCity"])])
    assert done[0].success, done
    found = org.call("query", "SELECT Id, Name, BillingCity, CreatedDate, Owner.Name FROM Account")
    assert (found.done, found.size) == (True, 1), found
    row = fields(found.records[0])
    assert (found.records[0].type, found.records[0].Id, row["Name"], row["BillingCity"]) == ("Account", account, "Vélo", None), row
    datetime.datetime.strptime(row["CreatedDate"], "%Y-%m-%dT%H:%M:%S.000Z")
    # A child by its parent's external id; pages.
    contacts = [record("Contact", {"LastName": f"N{n}", "AccountId": account}) for n in range(200)]
    for _ in range(3):
        assert all(one.success for one in org.call("create", contacts))
    page = org.call("query", "SELECT Id, LastName FROM Contact", headers=[org.header("QueryOptions", batchSize=250)])
    assert (page.done, page.size, len(page.records)) == (False, 600, 250), page.size
    seen = {one.Id for one in page.records}
    while not page.done:
        page = org.call("queryMore", page.queryLocator, headers=[org.header("QueryOptions", batchSize=250)])
        seen |= {one.Id for one in page.records}
    assert len(seen) == 600, len(seen)
    nested = org.call("query", "SELECT Name, (SELECT LastName FROM Contacts LIMIT 2) FROM Account")
    children = [part for part in nested.records[0]._value_1 if not hasattr(part, "tag")][0]
    assert (children.size, len(children.records), children.records[0].type) == (2, 2, "Contact"), children
    print("partner records: as in an org")

    upserted = org.call("upsert", "Id", [record("Account", {"Name": "Upserted"}, Id=account)])
    assert (upserted[0].success, upserted[0].created) == (True, False), upserted
    got = org.call("retrieve", "Id, Name", "Account", [account, "001000000000999AAA"])
    assert fields(got[0])["Name"] == "Upserted" and got[1].Id is None, got
    found = org.call("search", "FIND {Upserted} IN ALL FIELDS RETURNING Account(Id, Name)")
    assert found.searchRecords[0].record.Id == account, found
    now = datetime.datetime.now(datetime.timezone.utc)
    span = (now - datetime.timedelta(hours=1), now + datetime.timedelta(hours=1))
    assert account in org.call("getUpdated", "Account", *span).ids
    # A merge: the children hang on the winner.
    loser = org.call("create", [record("Account", {"Name": "Loser"})])[0].id
    child = org.call("create", [record("Contact", {"LastName": "Moved", "AccountId": loser})])[0].id
    merged = org.call("merge", [{"masterRecord": record("Account", {"Name": "Both"}, Id=account), "recordToMergeIds": [loser]}])
    assert merged[0].success and merged[0].mergedRecordIds == [loser] and merged[0].updatedRelatedIds == [child], merged
    moved = org.call("query", f"SELECT Id, AccountId, Account.Name FROM Contact WHERE Id = '{child}'").records[0]
    assert fields(moved)["AccountId"] == account, fields(moved)
    # The recycle bin.
    gone = org.call("delete", [child, child])
    assert [one.success for one in gone] == [True, False] and gone[1].errors[0].statusCode == "ENTITY_IS_DELETED", gone
    assert org.call("undelete", [child])[0].success
    assert org.call("delete", [child])[0].success and org.call("emptyRecycleBin", [child])[0].success
    assert org.call("undelete", [child])[0].errors[0].statusCode == "UNDELETE_FAILED"
    deleted = org.call("getDeleted", "Account", *span)
    assert loser in [one.id for one in deleted.deletedRecords], deleted
    # Assignment rules work where they are asked to.
    lead = record("Lead", {"LastName": "Assigned", "Company": "Rad AG"})
    for headers, owner in [([], USER), ([org.header("AssignmentRuleHeader", assignmentRuleId=None, useDefaultRule=True)], "leads@example.com")]:
        given = org.call("create", [lead], headers=headers)[0].id
        owned = org.call("query", f"SELECT Id FROM Lead WHERE Id = '{given}' AND Owner.Username = '{owner}'")
        assert owned.size == 1, owner
    # A lead becomes an account, a contact and an opportunity.
    lead = org.call("create", [record("Lead", {"LastName": "Öz", "Company": "Rad AG", "City": "Bonn", "LeadSource": "Web"})])[0].id
    convert = {"leadId": lead, "convertedStatus": "Closed - Converted", "doNotCreateOpportunity": False,
               "overwriteLeadSource": False, "sendNotificationEmail": False}
    wrong = org.call("convertLead", [{**convert, "convertedStatus": "Nearly"}])[0]
    assert not wrong.success and wrong.errors[0].statusCode == "INVALID_STATUS", wrong
    done = org.call("convertLead", [convert])[0]
    assert done.success and done.leadId == lead, done
    became = org.call("query", f"SELECT Name, Account.Name, StageName, LeadSource FROM Opportunity WHERE Id = '{done.opportunityId}'")
    assert fields(became.records[0])["Name"] == "Rad AG-", fields(became.records[0])
    person = org.call("query", f"SELECT LastName, AccountId, MailingCity FROM Contact WHERE Id = '{done.contactId}'").records[0]
    assert (fields(person)["AccountId"], fields(person)["MailingCity"]) == (done.accountId, "Bonn"), fields(person)
    again = org.call("convertLead", [convert])[0]
    assert again.errors[0].statusCode == "CANNOT_UPDATE_CONVERTED_LEAD", again
    stays = org.call("update", [record("Lead", {"City": "Ulm"}, Id=lead)])[0]
    assert stays.errors[0].statusCode == "CANNOT_UPDATE_CONVERTED_LEAD", stays
    # An org without approval processes.
    submit = org.client.get_type(f"{{{org.namespace}}}ProcessSubmitRequest")(objectId=done.accountId, comments="please")
    sent = org.call("process", [submit])[0]
    assert (sent.success, sent.entityId, sent.errors[0].statusCode) == (False, done.accountId, "NO_APPLICABLE_PROCESS"), sent
    decide = org.client.get_type(f"{{{org.namespace}}}ProcessWorkitemRequest")(action="Approve", workitemId=done.accountId)
    assert org.call("process", [decide])[0].errors[0].statusCode == "INVALID_CROSS_REFERENCE_KEY"
    # A rule against duplicates, asked and met.
    campaign = record("Campaign", {"Name": "Fr\u00fchling, 2026"})
    first = org.call("create", [campaign])[0].id
    twin = org.call("create", [record("Campaign", {"Name": "fr\u00fchling 2026"})])[0]
    assert twin.errors[0].statusCode == "DUPLICATES_DETECTED" and twin.errors[0].duplicateResult.duplicateRule == "Same_Campaign", twin
    told = org.call("findDuplicates", [record("Campaign", {"Name": "FR\u00dcHLING 2026"}), record("Account", {"Name": "x"})])
    match = told[0].duplicateResults[0].matchResults[0]
    assert (match.size, match.matchRecords[0].record.Id, match.matchRecords[0].matchConfidence) == (1, first, 100), match
    assert told[1].errors[0].statusCode == "NO_ACTIVE_DUPLICATE_RULE", told[1]
    alone = org.call("findDuplicatesByIds", [first])[0]
    assert alone.success and alone.duplicateResults[0].matchResults[0].size == 0, alone
    # Quick actions: those of every org.
    actions = {one.name: one for one in org.call("describeAvailableQuickActions", "Contact")}
    assert (actions["NewTask"].type, actions["LogACall"].type) == ("Create", "LogACall"), actions
    assert org.call("describeQuickActions", ["NewTask"])[0].targetSobjectType == "Task"
    done_action = org.call("performQuickActions", [
        {"contextId": done.contactId, "quickActionName": "LogACall", "records": [record("Task", {"Description": "rang"})]},
        {"contextId": done.contactId, "quickActionName": "Nothing"}])
    assert done_action[0].success and not done_action[1].success, done_action
    call = org.call("query", f"SELECT Subject, Status, WhoId FROM Task WHERE Id = '{done_action[0].ids[0]}'").records[0]
    assert (fields(call)["Status"], fields(call)["WhoId"]) == ("Completed", done.contactId), fields(call)
    # Mail: an activity with a person who has an address; nobody is written to.
    single = org.client.get_type(f"{{{org.namespace}}}SingleEmailMessage")
    assert org.call("update", [record("Contact", {"Email": "oez@example.com"}, Id=done.contactId)])[0].success
    sent = org.call("sendEmail", [single(targetObjectId=done.contactId, subject="Hallo", plainTextBody="W\u00f6rter"),
                                  single(toAddresses=["nobody"], subject="x", plainTextBody="x"),
                                  single(subject="x", plainTextBody="x")])
    assert [one.success for one in sent] == [True, False, False], sent
    assert [one.errors[0].statusCode for one in sent[1:]] == ["INVALID_EMAIL_ADDRESS", "REQUIRED_FIELD_MISSING"], sent
    mail = org.call("query", f"SELECT Description FROM Task WHERE Subject = 'Email: Hallo' AND WhoId = '{done.contactId}'")
    assert fields(mail.records[0])["Description"] == "W\u00f6rter", mail
    render = org.call("renderEmailTemplate", [{"templateBodies": ["Dear {!Contact.LastName},", "{!Nothing.At.All}"], "whoId": done.contactId}])[0]
    assert render.bodyResults[0].mergedBody == "Dear \u00d6z,", render
    assert (render.bodyResults[1].success, render.bodyResults[1].errors[0].fieldName) == (False, "Nothing.At.All"), render
    assert not org.call("deleteByExample", [campaign])[0].success
    # A platform event.
    published = org.call("create", [record("Manufacturing_Event__e", {"Order_Id__c": "O-1", "Status__c": "Built"})])
    assert published[0].success, published
    print("partner calls: as in an org")

    described = org.call("describeSObject", "Account")
    names = {field.name: field for field in described.fields}
    assert names["Name"].type == "string" and names["OwnerId"].referenceTo == ["User"], names["OwnerId"]
    assert [one.name for one in org.call("describeSObjects", ["Account", "Contact"])] == ["Account", "Contact"]
    assert "Account" in [one.name for one in org.call("describeGlobal").sobjects]
    layout = org.call("describeLayout", "Account").layouts[0]
    items = [item for row in layout.detailLayoutSections[0].layoutRows for item in row.layoutItems]
    assert "Name" in [item.layoutComponents[0].value for item in items if item.required], items[:3]
    compact = org.call("describeCompactLayouts", "Account").compactLayouts[0]
    assert compact.fieldItems[0].layoutComponents[0].value == "Name", compact
    assert [one.objectType for one in org.call("describePrimaryCompactLayouts", ["Account", "Lead"])] == ["Account", "Lead"]
    assert org.call("describeSearchLayouts", ["Contact"])[0].searchColumns[0].field == "Name"
    assert "Contact" in [tab.name for tab in org.call("describeAllTabs")]
    tabs = org.call("describeTabs")[0].tabs
    assert "Account" in [tab.sobjectName for tab in tabs], tabs[:2]
    assert org.call("getUserInfo").userId == org.user
    assert abs((org.call("getServerTimestamp").timestamp - now).total_seconds()) < 60
    fault = refused("MALFORMED_QUERY", org.call, "query", "SELECT FROM Account")
    assert fault.detail[0].tag.endswith("}MalformedQueryFault"), fault.detail
    fault = refused("INVALID_FIELD", org.call, "query", "SELECT Nothing FROM Account")
    row, column = [part.text for part in fault.detail[0]][2:]
    assert (row, column) == ("1", "8"), (row, column)
    refused("INVALID_TYPE", org.call, "describeSObject", "Nothing")
    refused("INVALID_QUERY_LOCATOR", org.call, "queryMore", "nothing-2000")
    print("partner descriptions: as in an org")

    fresh = org.call("resetPassword", org.user).password
    refused("INVALID_LOGIN", org.client.service.login, USER, PASSWORD)
    assert org.client.service.login(USER, fresh).userId == org.user
    org.call("setPassword", org.user, "another-secret-1")
    refused("INVALID_OLD_PASSWORD", org.call, "changeOwnPassword", "wrong", "another-secret-2")
    org.call("changeOwnPassword", "another-secret-1", PASSWORD)
    second = org.client.service.login(USER, PASSWORD).sessionId
    org.call("invalidateSessions", [second])
    mine, org.session = org.session, second
    refused("INVALID_SESSION_ID", org.call, "getUserInfo")
    org.session = mine
    org.call("logout")
    refused("INVALID_SESSION_ID", org.call, "getUserInfo")
    print("passwords and sessions: as in an org")


def enterprise():
    org = Org("enterprise", "urn:enterprise.soap.sforce.com")
    objects = "urn:sobject.enterprise.soap.sforce.com"
    account = org.client.get_type(f"{{{objects}}}Account")
    contact = org.client.get_type(f"{{{objects}}}Contact")
    made = org.call("create", [account(Name="Typed", NumberOfEmployees=7, AnnualRevenue=1250), contact(LastName="Öz")])
    assert [one.success for one in made] == [True, True], made
    assert org.call("update", [contact(Id=made[1].id, AccountId=made[0].id)])[0].success
    soql = f"SELECT Id, Name, NumberOfEmployees, AnnualRevenue, CreatedDate, (SELECT LastName FROM Contacts) FROM Account WHERE Id = '{made[0].id}'"
    row = org.call("query", soql).records[0]
    assert (row.Id, row.Name, row.NumberOfEmployees, row.AnnualRevenue) == (made[0].id, "Typed", 7, 1250), row
    assert isinstance(row.CreatedDate, datetime.datetime), row
    assert row.Contacts.records[0].LastName == "Öz", row
    parent = org.call("query", f"SELECT LastName, Account.Name FROM Contact WHERE Id = '{made[1].id}'").records[0]
    assert parent.Account.Name == "Typed", parent
    print("enterprise: as in an org")


def apex():
    """A class of the org's own, by its own WSDL, with a session of the API."""
    org = Org("partner", "urn:partner.soap.sforce.com")
    namespace = "http://soap.sforce.com/schemas/class/Stock"
    client = zeep.Client(f"{address}/services/wsdl/class/Stock")
    session = client.get_element(f"{{{namespace}}}SessionHeader")
    call = lambda method, **named: client.service[method](**named, _soapheaders=[session(sessionId=org.session)])
    made = call("put", name="Köln & Co", price=1250)
    assert len(made) == 18, made
    shelf = client.get_type(f"{{{namespace}}}Shelf")
    asked = datetime.datetime(2026, 2, 3, 4, 5, 6, tzinfo=datetime.timezone.utc)
    shelves = [shelf(label="A", places=[1, 2]), shelf(label=None, places=[])]
    level = call("find", name="Köln & Co", shelves=shelves, asked=asked)
    assert (level.found, level.name, level.price, level.asked) == (True, "Köln & Co", 1250, asked), level
    assert [(one.label, one.places) for one in level.shelves] == [("A", [1, 2]), (None, [])], level
    assert call("open", names=["a", "b"]) == ["a", "b"]
    assert call("nothing") is None
    try:
        call("put", name=None, price=1)
        raise AssertionError("a name is missing")
    except Fault as fault:
        assert fault.code == "soapenv:Client" and "System.DmlException" in fault.message, fault
        assert "Class.Stock.put" in fault.message, fault
    org.session = "nobody"
    try:
        call("nothing")
        raise AssertionError("nobody may call")
    except Fault as fault:
        assert fault.code == "sf:INVALID_SESSION_ID", fault
    print("classes: as in an org")


partner()
enterprise()
apex()
