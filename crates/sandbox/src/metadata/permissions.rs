//! Permission sets and profiles that were deployed: what they give.

use super::{Component, Held};
use crate::definition::{FieldAccess, Permissions, Right};
use crate::xml::Node;

/// What a profile is called in its file and in the org, where that differs. Source: Metadata API Developer Guide, "Profile".
const PROFILES: [(&str, &str); 3] =
    [("Admin", "System Administrator"), ("Standard", "Standard User"), ("ReadOnly", "Read Only")];

/// Returns the permission sets and profiles by name, profiles as the org calls them.
pub(crate) fn permissions(held: &[Held]) -> Vec<(&'static str, String, Permissions)> {
    let given = |held: &Held| {
        let one = &held.component;
        let xml = one.xml().ok()?;
        match one.of.name {
            "PermissionSet" => Some(("PermissionSet", one.name.clone(), read(&xml))),
            "Profile" => {
                // A profile is all that its users have: what it does not name is hidden.
                let given = Permissions { unlisted_fields: Some(FieldAccess::Hidden), ..read(&xml) };
                Some(("Profile", profile_name(one), given))
            }
            _ => None,
        }
    };
    held.iter().filter_map(given).collect()
}

fn profile_name(one: &Component) -> String {
    let known = PROFILES.iter().find(|(file, _)| *file == one.name).map(|(_, name)| (*name).to_owned());
    known.unwrap_or_else(|| percent_encoding::percent_decode_str(&one.name).decode_utf8_lossy().into_owned())
}

fn read(xml: &Node) -> Permissions {
    let all = |tag: &'static str| xml.children.iter().filter(move |node| node.tag == tag);
    let is = |node: &Node, tag: &str| node.text(tag) == Some("true");
    let mut given = Permissions::default();
    for node in all("objectPermissions") {
        let rights = [
            ("allowCreate", Right::Create),
            ("allowRead", Right::Read),
            ("allowEdit", Right::Edit),
            ("allowDelete", Right::Delete),
        ];
        let rights = rights.into_iter().filter(|(tag, _)| is(node, tag)).map(|(_, right)| right);
        given.objects.insert(node.text("object").unwrap_or_default().to_owned(), rights.collect());
    }
    for node in all("fieldPermissions") {
        let access = match (is(node, "readable"), is(node, "editable")) {
            (_, true) => FieldAccess::Edit,
            (true, false) => FieldAccess::Read,
            (false, false) => FieldAccess::Hidden,
        };
        given.fields.insert(node.text("field").unwrap_or_default().to_owned(), access);
    }
    let enabled = all("userPermissions").filter(|node| is(node, "enabled"));
    given.user_permissions = enabled.filter_map(|node| node.text("name")).map(str::to_owned).collect();
    given
}
