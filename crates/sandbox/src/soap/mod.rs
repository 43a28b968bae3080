//! The SOAP API, Partner and Enterprise: envelopes around the same records.
//!
//! A call is read into what REST would be asked, and its answer written by the types of the WSDL; only what REST does not know
//! (signing in, the recycle bin, merges) is done here.

pub(crate) mod class;
mod office;
mod types;
mod write;
mod wsdl;

use std::sync::Arc;

use serde_json::{Map, Value, json};

use self::types::{Operation, TYPES};
use self::write::locator;
pub(crate) use self::write::outbound as write_record;
use crate::error::{Answered, ApiError};
use crate::leads::Conversion;
use crate::org::Org;
use crate::rest::{Answer, Call};
use crate::xml::{Node, escape, tree};

/// Last version of `login`. Source: release notes, "SOAP API login() retirement".
const LAST_LOGIN: f64 = 64.0;
/// How long a session lasts, in seconds, as the default of an org says.
const SESSION_SECONDS: i64 = 7_200;
/// Records that one call writes. Source: SOAP API guide.
const MOST: usize = 200;
/// The namespace of envelopes.
pub(crate) const ENVELOPE: &str = "http://schemas.xmlsoap.org/soap/envelope/";

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flavor {
    /// Records are their type and any fields.
    Partner,
    /// Each object is a type.
    Enterprise,
}

impl Flavor {
    /// Returns its namespaces: of calls, of objects and of faults.
    fn namespaces(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Partner => (
                "urn:partner.soap.sforce.com",
                "urn:sobject.partner.soap.sforce.com",
                "urn:fault.partner.soap.sforce.com",
            ),
            Self::Enterprise => (
                "urn:enterprise.soap.sforce.com",
                "urn:sobject.enterprise.soap.sforce.com",
                "urn:fault.enterprise.soap.sforce.com",
            ),
        }
    }
}

/// A call as it was sent.
struct Asked<'c> {
    flavor: Flavor,
    version: String,
    call: &'c Call,
    header: Option<&'c Node>,
    body: &'c Node,
    operation: &'static Operation,
}

/// Returns the name of the element that tells of a refusal. Source: the Partner WSDL.
fn fault_kind(code: &str) -> &'static str {
    match code {
        "INVALID_LOGIN" | "PASSWORD_LOCKOUT" | "LOGIN_MUST_USE_SECURITY_TOKEN" => "LoginFault",
        "INVALID_FIELD" => "InvalidFieldFault",
        "INVALID_TYPE" => "InvalidSObjectFault",
        "MALFORMED_ID" | "INVALID_ID_FIELD" => "InvalidIdFault",
        "INVALID_QUERY_LOCATOR" => "InvalidQueryLocatorFault",
        "INVALID_NEW_PASSWORD" => "InvalidNewPasswordFault",
        "INVALID_OLD_PASSWORD" => "InvalidOldPasswordFault",
        "MALFORMED_QUERY" => "MalformedQueryFault",
        "MALFORMED_SEARCH" => "MalformedSearchFault",
        _ => "UnexpectedErrorFault",
    }
}

/// Writes a refusal. Every one has the status 500.
fn fault(flavor: Flavor, error: &ApiError) -> Answer {
    let (_, _, namespace) = flavor.namespaces();
    let (kind, code, message) = (fault_kind(&error.code), escape(&error.code), escape(&error.message));
    let place = match kind {
        "InvalidFieldFault" | "InvalidSObjectFault" | "MalformedQueryFault" | "MalformedSearchFault" => {
            let number = |mark: &str| {
                let rest = error.message.split_once(mark).map_or("", |(_, rest)| rest);
                rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap_or(-1)
            };
            format!("<sf:row>{}</sf:row><sf:column>{}</sf:column>", number("Row:"), number("Column:"))
        }
        _ => String::new(),
    };
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><soapenv:Envelope xmlns:soapenv=\"{ENVELOPE}\" xmlns:sf=\"{namespace}\" \
         xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\"><soapenv:Body><soapenv:Fault>\
         <faultcode>sf:{code}</faultcode><faultstring>{code}: {message}</faultstring><detail><sf:{kind} xsi:type=\"sf:{kind}\">\
         <sf:exceptionCode>{code}</sf:exceptionCode><sf:exceptionMessage>{message}</sf:exceptionMessage>{place}</sf:{kind}>\
         </detail></soapenv:Fault></soapenv:Body></soapenv:Envelope>"
    );
    Answer::bytes(500, "text/xml;charset=UTF-8", body.into_bytes())
}

/// Writes the refusal of what is no call.
pub(crate) fn client_fault(message: &str) -> Answer {
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><soapenv:Envelope xmlns:soapenv=\"{ENVELOPE}\"><soapenv:Body><soapenv:Fault>\
         <faultcode>soapenv:Client</faultcode><faultstring>{}</faultstring></soapenv:Fault></soapenv:Body></soapenv:Envelope>",
        escape(message)
    );
    Answer::bytes(500, "text/xml;charset=UTF-8", body.into_bytes())
}

/// Reads a record into what it would be in JSON.
fn record(node: &Node) -> Value {
    let mut fields = Map::new();
    let of_type =
        node.kind.as_deref().map(|kind| kind.rsplit(':').next().unwrap_or(kind)).filter(|kind| *kind != "sObject");
    if let Some(kind) = node.text("type").or(of_type) {
        fields.insert("attributes".to_owned(), json!({"type": kind}));
    }
    for child in node.children.iter().filter(|child| child.tag != "type") {
        match child.tag.as_str() {
            "fieldsToNull" => drop(fields.insert(child.content.trim().to_owned(), Value::Null)),
            // Only `fieldsToNull` empties a field.
            _ if child.nil => {}
            name if child.children.is_empty() => drop(fields.insert(name.to_owned(), json!(child.content))),
            name => drop(fields.insert(name.to_owned(), record(child))),
        }
    }
    Value::Object(fields)
}

/// Reads a request of `process` into what it would be in JSON.
fn approval(node: &Node) -> Value {
    let submits = node.kind.as_deref().is_some_and(|kind| kind.ends_with("ProcessSubmitRequest"));
    let (action, context) =
        if submits { ("Submit", "objectId") } else { (node.text("action").unwrap_or_default(), "workitemId") };
    json!({"actionType": action, "contextId": node.text(context), "comments": node.text("comments")})
}

/// Reads the envelope of a call, or returns why it is none.
pub(crate) fn envelope(call: &Call) -> Result<Node, Answer> {
    if call.method != "POST" {
        return Err(client_fault("a SOAP call is a POST"));
    }
    match std::str::from_utf8(&call.body).map_err(|error| error.to_string()).and_then(tree) {
        Ok(envelope) if envelope.tag == "Envelope" => Ok(envelope),
        Ok(other) => Err(client_fault(&format!("{} is no envelope", other.tag))),
        Err(error) => Err(client_fault(&format!("the envelope cannot be read: {error}"))),
    }
}

/// Checks the session that a header names.
pub(crate) fn sign_in(
    org: &Org,
    call: &mut Call,
    header: Option<&Node>,
    admitted: impl Fn(&Org, &mut Call) -> Result<(), ApiError>,
) -> Result<(), ApiError> {
    let session = header.and_then(|header| header.child("SessionHeader")?.text("sessionId")).unwrap_or_default();
    call.headers.insert("authorization".to_owned(), format!("Bearer {session}"));
    admitted(org, call).map_err(|mut error| {
        if error.code == "INVALID_SESSION_ID" {
            "Invalid Session ID found in SessionHeader: Illegal Session".clone_into(&mut error.message);
        }
        error
    })
}

/// Answers a call below `/services/Soap`; `admitted` checks and counts its session.
pub(crate) fn answer(
    org: &Arc<Org>,
    call: &mut Call,
    flavor: Flavor,
    version: &str,
    admitted: impl Fn(&Org, &mut Call) -> Result<(), ApiError>,
) -> Answer {
    let envelope = match envelope(call) {
        Ok(envelope) => envelope,
        Err(answer) => return answer,
    };
    let Some(body) = envelope.child("Body").and_then(|body| body.children.first()) else {
        return client_fault("the envelope holds no call");
    };
    let Some(operation) = TYPES.call(&body.tag) else {
        return client_fault(&format!("No operation available for request {}", body.tag));
    };
    let header = envelope.child("Header");
    let option = |header_name: &str, part: &str| header?.child(header_name)?.text(part).map(str::to_owned);
    if let Some(client) = option("CallOptions", "client") {
        call.headers.insert("sforce-call-options".to_owned(), format!("client={client}"));
    }
    let client = option("CallOptions", "client").map(|client| format!(";client={client}")).unwrap_or_default();
    crate::events::set_origin(format!("com/salesforce/api/soap/{version}{client}"));
    for (name, part) in [("allowSave", "allowSave"), ("includeRecordDetails", "includeRecordDetails")] {
        if option("DuplicateRuleHeader", part).as_deref() == Some("true") {
            let known = call.headers.entry("sforce-duplicate-rule-header".to_owned()).or_default();
            known.push_str(&format!("{name}=true;"));
        }
    }
    if let Some(wish) = option("AllowFieldTruncationHeader", "allowFieldTruncation") {
        call.headers.insert("sforce-allow-field-truncation".to_owned(), wish);
    }
    let assigns = option("AssignmentRuleHeader", "assignmentRuleId").is_some()
        || option("AssignmentRuleHeader", "useDefaultRule").as_deref() == Some("true");
    call.headers.insert("sforce-auto-assign".to_owned(), assigns.to_string());
    if let Some(size) = option("QueryOptions", "batchSize") {
        call.headers.insert("sforce-query-options".to_owned(), format!("batchSize={size}"));
    }
    if operation.name != "login"
        && let Err(error) = sign_in(org, call, header, admitted)
    {
        return fault(flavor, &error);
    }
    let asked = Asked { flavor, version: version.to_owned(), call, header, body, operation };
    match org.soap(&asked) {
        Ok(value) => org.written(&asked, &value),
        Err(error) => fault(flavor, &error),
    }
}

impl Asked<'_> {
    fn text(&self, name: &str) -> Answered<&str> {
        let missing = || ApiError::new(400, "MISSING_ARGUMENT", format!("{name} is missing"));
        self.body.text(name).ok_or_else(missing)
    }

    fn all(&self, name: &str) -> Vec<&Node> {
        self.body.children.iter().filter(|node| node.tag == name).collect()
    }

    fn ids(&self) -> Vec<&str> {
        self.all("ids").into_iter().map(|node| node.content.trim()).collect()
    }

    /// True where all is to be written, or nothing.
    fn all_or_none(&self) -> bool {
        let header = self.header.and_then(|header| header.child("AllOrNoneHeader"));
        header.and_then(|header| header.text("allOrNone")) == Some("true")
    }

    /// Asks what REST would be asked.
    fn inner(
        &self,
        org: &Org,
        method: &str,
        steps: &[&str],
        query: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Answered<Value> {
        let head = ["services".to_owned(), "data".to_owned(), format!("v{}", self.version)];
        let query: Vec<(String, String)> =
            query.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let mut headers = self.call.headers.clone();
        headers.insert("content-type".to_owned(), "application/json".to_owned());
        headers.remove("accept");
        let call = Call {
            method: method.to_owned(),
            path: head.into_iter().chain(steps.iter().map(|step| (*step).to_owned())).collect(),
            query: query.iter().cloned().collect(),
            pairs: query,
            headers,
            body: body.map(|body| body.to_string().into_bytes()).unwrap_or_default(),
            caller: Arc::clone(&self.call.caller),
        };
        let answer = org.data(&call);
        let value = answer.value();
        if answer.status < 400 {
            return Ok(value);
        }
        let text = |name: &str| value[0][name].as_str().unwrap_or_default().to_owned();
        Err(ApiError::new(answer.status, &text("errorCode"), text("message")))
    }
}

/// Returns a page of a query as SOAP has it.
fn page(mut answer: Value) -> Value {
    let next = answer["nextRecordsUrl"].as_str().map(|url| locator(url).to_owned());
    json!({"done": answer["done"], "queryLocator": next, "records": answer["records"].take(), "size": answer["totalSize"]})
}

impl Org {
    fn soap(&self, asked: &Asked<'_>) -> Answered<Value> {
        let caller = &asked.call.caller;
        match asked.operation.name {
            "login" => self.soap_login(asked),
            "logout" => {
                let session = asked.header.and_then(|header| header.child("SessionHeader")?.text("sessionId"));
                self.revoke(session.unwrap_or_default());
                Ok(Value::Null)
            }
            "invalidateSessions" => {
                let sessions = asked.all("sessionIds").into_iter().map(|node| {
                    self.revoke(node.content.trim());
                    json!({"errors": [], "success": true})
                });
                Ok(sessions.collect())
            }
            "create" => self.soap_write(asked, "POST"),
            "update" => self.soap_write(asked, "PATCH"),
            "upsert" => self.soap_upsert(asked),
            "delete" => {
                let ids = asked.ids().join(",");
                let all = asked.all_or_none().to_string();
                asked.inner(self, "DELETE", &["composite", "sobjects"], &[("ids", &ids), ("allOrNone", &all)], None)
            }
            "undelete" => self.soap_bin(asked, false),
            "emptyRecycleBin" => self.soap_bin(asked, true),
            "retrieve" => {
                let fields: Vec<&str> = asked.text("fieldList")?.split(',').map(str::trim).collect();
                let body = json!({"ids": asked.ids(), "fields": fields});
                asked.inner(self, "POST", &["composite", "sobjects", asked.text("sObjectType")?], &[], Some(&body))
            }
            "query" => asked.inner(self, "GET", &["query"], &[("q", asked.text("queryString")?)], None).map(page),
            "queryAll" => asked.inner(self, "GET", &["queryAll"], &[("q", asked.text("queryString")?)], None).map(page),
            "queryMore" => asked.inner(self, "GET", &["query", asked.text("queryLocator")?], &[], None).map(page),
            "search" => {
                let found = asked.inner(self, "GET", &["search"], &[("q", asked.text("searchString")?)], None)?;
                let records = found["searchRecords"].as_array().into_iter().flatten();
                let records: Vec<Value> = records.map(|record| json!({"record": record})).collect();
                Ok(json!({"queryId": "", "searchRecords": records}))
            }
            "getUpdated" | "getDeleted" => {
                let what = if asked.operation.name == "getUpdated" { "updated" } else { "deleted" };
                let span = [("start", asked.text("startDate")?), ("end", asked.text("endDate")?)];
                asked.inner(self, "GET", &["sobjects", asked.text("sObjectType")?, what], &span, None)
            }
            "describeGlobal" => asked.inner(self, "GET", &["sobjects"], &[], None),
            "describeSObject" => self.soap_describe(asked, asked.text("sObjectType")?),
            "describeSObjects" => asked
                .all("sObjectType")
                .into_iter()
                .map(|node| self.soap_describe(asked, node.content.trim()))
                .collect(),
            "describeLayout" => {
                let object = asked.text("sObjectType")?;
                let mut told = asked.inner(self, "GET", &["sobjects", object, "describe", "layouts"], &[], None)?;
                // An object without record types is told as its one layout.
                if told["layouts"].is_null() {
                    told = json!({"layouts": [told], "recordTypeMappings": []});
                }
                told["recordTypeSelectorRequired"] = json!(false);
                for section in ["detailLayoutSections", "editLayoutSections"] {
                    for section in told["layouts"][0][section].as_array_mut().into_iter().flatten() {
                        section["collapsed"] = json!(false);
                    }
                }
                Ok(told)
            }
            "describeCompactLayouts" => {
                let layout = Self::soap_compact(asked, asked.text("sObjectType")?)?;
                let mapping = json!({"available": true, "compactLayoutId": null, "compactLayoutName": "SYSTEM",
                                     "recordTypeId": "012000000000000AAA", "recordTypeName": "Master"});
                Ok(json!({"compactLayouts": [layout], "defaultCompactLayoutId": null,
                          "recordTypeCompactLayoutMappings": [mapping]}))
            }
            "describePrimaryCompactLayouts" => {
                let objects = asked.all("sObjectTypes").into_iter();
                objects.map(|node| Self::soap_compact(asked, node.content.trim())).collect()
            }
            "describeSearchLayouts" => {
                let names: Vec<&str> = asked.all("sObjectType").into_iter().map(|node| node.content.trim()).collect();
                asked.inner(self, "GET", &["search", "layout"], &[("q", &names.join(","))], None)
            }
            "describeQuickActions" => {
                let names = asked.all("quickActions").into_iter();
                names.map(|node| self.described_action(node.content.trim())).collect()
            }
            "describeAvailableQuickActions" => {
                let object = asked.body.text("contextType");
                Ok(self.listed_actions(&format!("v{}", asked.version), object))
            }
            "describeAllTabs" => asked.inner(self, "GET", &["tabs"], &[], None),
            "describeTabs" => {
                let tabs = asked.inner(self, "GET", &["tabs"], &[], None)?;
                Ok(json!([{"label": "Sandbox", "selected": true, "tabSetId": "all", "tabs": tabs}]))
            }
            "getUserInfo" => Ok(self.user_info(caller)),
            "getServerTimestamp" => Ok(json!({"timestamp": crate::value::json_time(self.now())})),
            "setPassword" => {
                let body = json!({"NewPassword": asked.text("password")?});
                asked.inner(
                    self,
                    "POST",
                    &["sobjects", "User", asked.text("userId")?, "password"],
                    &[],
                    Some(&body),
                )?;
                Ok(json!({}))
            }
            "resetPassword" => {
                let answer =
                    asked.inner(self, "DELETE", &["sobjects", "User", asked.text("userId")?, "password"], &[], None)?;
                Ok(json!({"password": answer["NewPassword"]}))
            }
            "changeOwnPassword" => {
                if self.check_password(&caller.username, asked.text("oldPassword")?).is_err() {
                    return Err(ApiError::new(400, "INVALID_OLD_PASSWORD", "the old password is another"));
                }
                let body = json!({"NewPassword": asked.text("newPassword")?});
                asked.inner(self, "POST", &["sobjects", "User", &caller.user_id, "password"], &[], Some(&body))?;
                Ok(json!({}))
            }
            "process" => {
                let requests: Value = asked.all("actions").into_iter().map(approval).collect();
                asked.inner(self, "POST", &["process", "approvals"], &[], Some(&json!({"requests": requests})))
            }
            "convertLead" => asked.all("leadConverts").into_iter().map(|lead| self.soap_convert(asked, lead)).collect(),
            "sendEmail" => self.soap_mail(asked),
            "performQuickActions" => self.soap_actions(asked),
            "findDuplicates" | "findDuplicatesByIds" => self.soap_duplicates(asked),
            "deleteByExample" => Ok(Self::soap_delete_alike(asked)),
            "renderEmailTemplate" => self.soap_render(asked),
            "merge" => asked.all("request").into_iter().map(|request| self.soap_merge(asked, request)).collect(),
            other => Err(ApiError::new(400, "INVALID_OPERATION", format!("{other} is not supported here"))),
        }
    }

    fn soap_login(&self, asked: &Asked<'_>) -> Answered<Value> {
        if asked.version.parse::<f64>().unwrap_or(LAST_LOGIN) > LAST_LOGIN
            || !self.config.definition.organization.soap_login
        {
            let message = "SOAP API login() is disabled by default in this org; sign in by OAuth";
            return Err(ApiError::new(500, "INVALID_OPERATION", message));
        }
        let (user, password) = (asked.text("username")?, asked.text("password")?);
        let caller = self.check_password(user, password).map_err(|_| {
            let message = "Invalid username, password, security token; or user locked out.";
            ApiError::new(500, "INVALID_LOGIN", message)
        })?;
        let session = format!("{}!{}", &self.org_id[..15], crate::oauth::random(66));
        self.open_session(session.clone(), Arc::clone(&caller));
        let letter = if asked.flavor == Flavor::Partner { 'u' } else { 'c' };
        let url =
            |letter: char| format!("{}/services/Soap/{letter}/{}/{}", self.url(), asked.version, &self.org_id[..15]);
        Ok(json!({"metadataServerUrl": url('m'), "passwordExpired": false, "sandbox": true, "serverUrl": url(letter),
                  "sessionId": session, "userId": caller.user_id, "userInfo": self.user_info(&caller)}))
    }

    fn user_info(&self, caller: &crate::caller::Caller) -> Value {
        let call = Call { caller: self.system(), ..Call::default() };
        let one = |soql: &str| {
            self.select(&call, "v66.0", soql, false).ok().and_then(|mut rows| rows.pop()).unwrap_or_default()
        };
        let user = one(&format!(
            "SELECT Name, Email, ProfileId, UserType, LanguageLocaleKey, LocaleSidKey, TimeZoneSidKey FROM User WHERE Id='{}'",
            caller.user_id
        ));
        let organization = one("SELECT Name FROM Organization");
        json!({"accessibilityMode": false, "chatterExternal": false, "currencySymbol": "$", "orgAttachmentFileSizeLimit": 5_242_880,
               "orgDefaultCurrencyIsoCode": "USD", "orgDefaultCurrencyLocale": "en_US", "orgDisallowHtmlAttachments": false,
               "orgHasPersonAccounts": self.config.definition.organization.person_accounts, "organizationId": self.org_id, "organizationMultiCurrency": false,
               "organizationName": organization["Name"], "profileId": user["ProfileId"], "roleId": null,
               "sessionSecondsValid": SESSION_SECONDS, "userDefaultCurrencyIsoCode": null, "userEmail": user["Email"],
               "userFullName": user["Name"], "userId": caller.user_id, "userLanguage": user["LanguageLocaleKey"],
               "userLocale": user["LocaleSidKey"], "userName": caller.username, "userTimeZone": user["TimeZoneSidKey"],
               "userType": "Standard", "userUiSkin": "Theme3"})
    }

    fn soap_write(&self, asked: &Asked<'_>, method: &str) -> Answered<Value> {
        let records: Vec<Value> = asked.all("sObjects").into_iter().map(record).collect();
        let body = json!({"allOrNone": asked.all_or_none(), "records": records});
        asked.inner(self, method, &["composite", "sobjects"], &[], Some(&body))
    }

    /// Upserts records of perhaps several objects, those that stand together at once.
    fn soap_upsert(&self, asked: &Asked<'_>) -> Answered<Value> {
        let records: Vec<Value> = asked.all("sObjects").into_iter().map(record).collect();
        office::too_many(records.len(), MOST)?;
        let key = asked.text("externalIDFieldName")?;
        let kind = |record: &Value| record["attributes"]["type"].as_str().unwrap_or_default().to_owned();
        let mut outcomes = Vec::with_capacity(records.len());
        for part in records.chunk_by(|left, right| kind(left) == kind(right)) {
            let body = json!({"allOrNone": asked.all_or_none(), "records": part});
            let steps = ["composite", "sobjects", &kind(&part[0]), key];
            let Value::Array(done) = asked.inner(self, "PATCH", &steps, &[], Some(&body))? else { continue };
            outcomes.extend(done.into_iter().map(|mut outcome| {
                if outcome["created"].is_null() {
                    outcome["created"] = json!(false);
                }
                outcome
            }));
        }
        Ok(Value::Array(outcomes))
    }

    /// Brings records back from the recycle bin, or removes them for good; each succeeds or fails alone, unless all are to.
    fn soap_bin(&self, asked: &Asked<'_>, purge: bool) -> Answered<Value> {
        let ids = asked.ids();
        let mut outcomes = Vec::new();
        let done = self.write(&asked.call.caller, |store| {
            outcomes.clear();
            for id in &ids {
                let outcome = match store.atomically(|store| if purge { store.purge(id) } else { store.undelete(id) }) {
                    Ok(()) => json!({"errors": [], "id": id, "success": true}),
                    Err(error) if asked.all_or_none() => return Err(error),
                    Err(error) => json!({"errors": [error.save_entry()], "success": false}),
                };
                outcomes.push(outcome);
            }
            Ok(())
        });
        match done {
            Ok(()) => Ok(Value::Array(outcomes)),
            Err(error) if error.status >= 500 => Err(error),
            Err(error) => {
                let failed = json!({"errors": [error.save_entry()], "success": false});
                Ok(Value::Array(vec![failed; ids.len()]))
            }
        }
    }

    fn soap_describe(&self, asked: &Asked<'_>, object: &str) -> Answered<Value> {
        let unknown = || {
            let message = format!("sObject type '{object}' is not supported.");
            ApiError::new(400, "INVALID_TYPE", message)
        };
        asked.call.caller.schema.object(object).ok_or_else(unknown)?;
        asked.inner(self, "GET", &["sobjects", object, "describe"], &[], None)
    }

    fn soap_convert(&self, asked: &Asked<'_>, node: &Node) -> Answered<Value> {
        let text = |name: &str| node.text(name).map(str::to_owned);
        let flag = |name: &str| node.text(name) == Some("true");
        let conversion = Conversion {
            lead: text("leadId").unwrap_or_default(),
            status: text("convertedStatus").unwrap_or_default(),
            account: text("accountId"),
            contact: text("contactId"),
            opportunity: text("opportunityName"),
            without_opportunity: flag("doNotCreateOpportunity"),
            overwrite_source: flag("overwriteLeadSource"),
            owner: text("ownerId"),
        };
        let done = self.write_with(&asked.call.caller, asked.call.options(), |store| store.convert_lead(&conversion));
        Ok(match done {
            Ok(done) => {
                json!({"accountId": done.account, "contactId": done.contact, "errors": [], "leadId": conversion.lead,
                               "opportunityId": done.opportunity, "success": true})
            }
            Err(error) if error.status >= 500 => return Err(error),
            Err(error) => json!({"accountId": null, "contactId": null, "errors": [error.save_entry()],
                                 "leadId": conversion.lead, "opportunityId": null, "success": false}),
        })
    }

    fn soap_merge(&self, asked: &Asked<'_>, request: &Node) -> Answered<Value> {
        let Some(master) = request.child("masterRecord").map(record) else {
            return Err(ApiError::new(400, "MISSING_ARGUMENT", "masterRecord is missing"));
        };
        let losers: Vec<&str> = request
            .children
            .iter()
            .filter(|node| node.tag == "recordToMergeIds")
            .map(|node| node.content.trim())
            .collect();
        let mut values = master.as_object().cloned().unwrap_or_default();
        let kind =
            values.remove("attributes").and_then(|of| of["type"].as_str().map(str::to_owned)).unwrap_or_default();
        let winner = values.remove("Id").and_then(|id| id.as_str().map(str::to_owned)).unwrap_or_default();
        let merged = self.write_with(&asked.call.caller, asked.call.options(), |store| {
            let moved = store.children_of(&losers)?;
            store.merge(&winner, &losers)?;
            let object = store.schema.object(&kind).ok_or_else(ApiError::not_found)?;
            // What the winner is to hold is written with it.
            store.update(object, &winner, &values)?;
            Ok(moved)
        });
        Ok(match merged {
            Ok(moved) => {
                json!({"errors": [], "id": winner, "mergedRecordIds": losers, "success": true, "updatedRelatedIds": moved})
            }
            Err(error) if error.status >= 500 => return Err(error),
            Err(error) => json!({"errors": [error.save_entry()], "id": null, "mergedRecordIds": [], "success": false}),
        })
    }

    /// Writes an answer with its envelope.
    fn written(&self, asked: &Asked<'_>, value: &Value) -> Answer {
        let (tns, objects, _) = asked.flavor.namespaces();
        let mut body = String::new();
        if let Some(gives) = &asked.operation.gives {
            write::result(&mut body, gives, value, asked.flavor);
        }
        let name = asked.operation.name;
        let limits = if name == "login" {
            String::new()
        } else {
            format!(
                "<soapenv:Header><LimitInfoHeader><limitInfo><current>{}</current><limit>{}</limit><type>API REQUESTS</type>\
                 </limitInfo></LimitInfoHeader></soapenv:Header>",
                self.calls(),
                self.faults.allowance()
            )
        };
        let envelope = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?><soapenv:Envelope xmlns:soapenv=\"{ENVELOPE}\" xmlns=\"{tns}\" \
             xmlns:sf=\"{objects}\" xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\">{limits}<soapenv:Body>\
             <{name}Response>{body}</{name}Response></soapenv:Body></soapenv:Envelope>"
        );
        Answer::bytes(200, "text/xml;charset=UTF-8", envelope.into_bytes())
    }
}
