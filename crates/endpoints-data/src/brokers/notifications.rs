//! Outbound messages of Salesforce: SOAP, with up to a hundred notifications of a record each.
//!
//! Source: SOAP API guide, "Outbound Messaging".

use std::collections::BTreeMap;

use serde::Deserialize;

/// The answer to a message that was kept.
pub(super) const TAKEN: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
    <soapenv:Envelope xmlns:soapenv=\"http://schemas.xmlsoap.org/soap/envelope/\"><soapenv:Body>\
    <notificationsResponse xmlns=\"http://soap.sforce.com/2005/09/outbound\"><Ack>true</Ack></notificationsResponse>\
    </soapenv:Body></soapenv:Envelope>";

/// A message.
pub(super) struct Message {
    /// The id of the org that sent it.
    pub(super) organization: String,
    /// The ids of its notifications, each with its record as JSON: what was left out was empty.
    pub(super) records: Vec<(String, Vec<u8>)>,
}

#[derive(Deserialize)]
struct Envelope {
    #[serde(rename = "Body")]
    body: Body,
}

#[derive(Deserialize)]
struct Body {
    notifications: Notifications,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Notifications {
    organization_id: String,
    #[serde(default)]
    notification: Vec<Notification>,
}

#[derive(Deserialize)]
struct Notification {
    #[serde(rename = "Id")]
    id: String,
    #[serde(rename = "sObject")]
    record: BTreeMap<String, String>,
}

/// Reads a message; none where it is another thing.
pub(super) fn read(body: &[u8]) -> Option<Message> {
    let Envelope { body: Body { notifications } } = quick_xml::de::from_reader(body).ok()?;
    let record = |Notification { id, mut record }: Notification| {
        // Attributes say what it is, not what it holds.
        record.retain(|name, _| !name.starts_with('@'));
        Some((id, serde_json::to_vec(&record).ok()?))
    };
    let records = notifications.notification.into_iter().map(record).collect::<Option<_>>()?;
    Some(Message { organization: notifications.organization_id, records })
}

#[cfg(test)]
mod tests {
    use super::read;

    #[test]
    fn a_message_holds_records_and_what_is_none_is_refused() {
        let text = r#"<?xml version="1.0"?><e:Envelope xmlns:e="http://schemas.xmlsoap.org/soap/envelope/"
            xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"><e:Body>
            <notifications xmlns="http://soap.sforce.com/2005/09/outbound">
              <OrganizationId>00Dxx0000001gYhEAI</OrganizationId><ActionId>04k</ActionId><SessionId xsi:nil="true"/>
              <Notification><Id>04l1</Id><sObject xsi:type="sf:Account" xmlns:sf="urn:sobject.enterprise.soap.sforce.com">
                <sf:Id>001A</sf:Id><sf:Name>Köln &amp; &#x41;</sf:Name><sf:Site/></sObject></Notification>
              <Notification><Id>04l2</Id><sObject xsi:type="sf:Account"><sf:Id>001B</sf:Id></sObject></Notification>
            </notifications></e:Body></e:Envelope>"#;
        let message = read(text.as_bytes()).expect("a message");
        let record = |place: usize| String::from_utf8_lossy(&message.records[place].1).into_owned();
        assert_eq!(message.organization, "00Dxx0000001gYhEAI");
        assert_eq!((message.records.len(), message.records[1].0.as_str()), (2, "04l2"));
        assert_eq!(record(0), r#"{"Id":"001A","Name":"Köln & A","Site":""}"#);
        assert_eq!(record(1), r#"{"Id":"001B"}"#);
        let bomb = r#"<!DOCTYPE x [<!ENTITY a "aaaa">]>"#.to_owned() + &text.replace("&amp;", "&a;")[21..];
        for wrong in ["", "<x/>", "{}", "<Envelope><Body/></Envelope>", &text[..300], &bomb] {
            assert!(read(wrong.as_bytes()).is_none(), "{wrong}");
        }
    }
}
