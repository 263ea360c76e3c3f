//! Query parameters: the options of list, watch and write requests.

use isopod_api::codec::FieldValidation;
use isopod_api::field::{Error, ErrorList, Path};
use isopod_api::selector::{FieldSelector, LabelSelector};
use isopod_api::status::Status;

use crate::request_info::{parse_bool, query_pairs};

/// The decoded query string.
#[derive(Debug, Clone, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Parses a query string.
    pub fn parse(query: Option<&str>) -> Query {
        Query(query_pairs(query.unwrap_or_default()).collect())
    }

    /// First value of a parameter, empty when absent.
    pub fn get(&self, name: &str) -> &str {
        self.0.iter().find(|(k, _)| k == name).map_or("", |(_, v)| v.as_str())
    }

    /// Whether the parameter is there at all.
    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(k, _)| k == name)
    }

    /// All values of a parameter.
    pub fn all<'q>(&'q self, name: &'q str) -> impl Iterator<Item = &'q str> + 'q {
        self.0.iter().filter(move |(k, _)| k == name).map(|(_, v)| v.as_str())
    }

    /// A boolean parameter, false when absent.
    pub fn flag(&self, name: &str) -> bool {
        self.has(name) && parse_bool(self.get(name))
    }

    /// A whole number, `None` when absent or empty.
    pub fn number(&self, name: &str) -> Result<Option<i64>, Status> {
        match self.get(name) {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(|_| {
                Status::bad_request(format!("strconv.ParseInt: parsing {text:?}: invalid syntax"))
            }),
        }
    }
}

/// How exactly a list must meet the revision it names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VersionMatch {
    /// Nothing said.
    Unset,
    /// At that revision or later.
    NotOlderThan,
    /// At exactly that revision.
    Exact,
}

/// Options of list, watch and deletecollection.
#[derive(Debug, Clone)]
pub struct ListOptions {
    /// Label selector.
    pub labels: LabelSelector,
    /// Field selector.
    pub fields: FieldSelector,
    /// Most items per page, zero for all.
    pub limit: usize,
    /// Token of the next page.
    pub continue_token: String,
    /// `resourceVersion`; `None` when absent.
    pub resource_version: Option<i64>,
    /// `resourceVersionMatch`.
    pub version_match: VersionMatch,
    /// Seconds after which a watch ends.
    pub timeout_seconds: Option<u64>,
    /// Whether bookmarks may be sent.
    pub bookmarks: bool,
    /// `sendInitialEvents`.
    pub send_initial_events: Option<bool>,
}

impl ListOptions {
    /// Reads and checks the options; `watch` says for which verb.
    pub fn parse(query: &Query, watch: bool) -> Result<ListOptions, Status> {
        let labels = LabelSelector::parse(query.get("labelSelector")).map_err(Status::bad_request)?;
        let fields = FieldSelector::parse(query.get("fieldSelector")).map_err(Status::bad_request)?;
        let version_match = match query.get("resourceVersionMatch") {
            "" => VersionMatch::Unset,
            "NotOlderThan" => VersionMatch::NotOlderThan,
            "Exact" => VersionMatch::Exact,
            other => {
                let error = Error::not_supported(
                    &Path::new("resourceVersionMatch"),
                    other,
                    &["Exact", "NotOlderThan", ""],
                );
                return Err(invalid_list_options(vec![error]));
            }
        };
        let resource_version = match query.get("resourceVersion") {
            "" => None,
            text => Some(parse_resource_version(text)?),
        };
        let options = ListOptions {
            labels,
            fields,
            limit: usize::try_from(query.number("limit")?.unwrap_or(0)).unwrap_or(0),
            continue_token: query.get("continue").to_owned(),
            resource_version,
            version_match,
            timeout_seconds: query
                .number("timeoutSeconds")?
                .and_then(|s| u64::try_from(s).ok())
                .filter(|s| *s > 0),
            bookmarks: query.flag("allowWatchBookmarks"),
            send_initial_events: query.has("sendInitialEvents").then(|| query.flag("sendInitialEvents")),
        };
        let errors = options.check(query, watch);
        if errors.is_empty() { Ok(options) } else { Err(invalid_list_options(errors)) }
    }

    fn check(&self, query: &Query, watch: bool) -> ErrorList {
        let mut errors = ErrorList::new();
        let matching = Path::new("resourceVersionMatch");
        if let (true, Some(initial)) = (watch, self.send_initial_events) {
            let at = Path::new("resourceVersionMatch");
            if self.version_match == VersionMatch::Unset {
                errors.push(Error::forbidden(
                    &at,
                    "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
                ));
            } else if self.version_match != VersionMatch::NotOlderThan {
                errors.push(Error::not_supported(&at, query.get("resourceVersionMatch"), &["NotOlderThan"]));
            }
            if !self.continue_token.is_empty() {
                errors.push(Error::forbidden(
                    &at,
                    "resourceVersionMatch is forbidden when continue is provided",
                ));
            }
            let _ = initial;
            return errors;
        }
        if watch {
            if self.version_match != VersionMatch::Unset {
                errors.push(Error::forbidden(
                    &matching,
                    "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
                ));
            }
            return errors;
        }
        if self.send_initial_events.is_some() {
            errors.push(Error::forbidden(
                &Path::new("sendInitialEvents"),
                "sendInitialEvents is forbidden for list",
            ));
        }
        if self.version_match != VersionMatch::Unset {
            if self.resource_version.is_none() {
                errors.push(Error::forbidden(
                    &matching,
                    "resourceVersionMatch is forbidden unless resourceVersion is provided",
                ));
            }
            if !self.continue_token.is_empty() {
                errors.push(Error::forbidden(
                    &matching,
                    "resourceVersionMatch is forbidden when continue is provided",
                ));
            }
            if self.version_match == VersionMatch::Exact && self.resource_version == Some(0) {
                errors.push(Error::forbidden(
                    &matching,
                    "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
                ));
            }
        }
        errors
    }
}

fn invalid_list_options(errors: ErrorList) -> Status {
    Status::invalid("meta.k8s.io", "ListOptions", "", &errors)
}

/// Parses a resourceVersion.
pub fn parse_resource_version(text: &str) -> Result<i64, Status> {
    text.parse::<i64>().ok().filter(|v| *v >= 0).ok_or_else(|| {
        Status::bad_request(format!(
            "Invalid value: {text:?}: strconv.ParseUint: parsing {text:?}: invalid syntax"
        ))
    })
}

/// Options of create, update and patch.
#[derive(Debug, Clone)]
pub struct WriteOptions {
    /// Nothing is to be stored.
    pub dry_run: bool,
    /// Treatment of unknown fields.
    pub field_validation: FieldValidation,
    /// Name under which the change is recorded; empty for the default.
    pub field_manager: String,
    /// `force` of an apply patch.
    pub force: bool,
}

/// Longest field manager name, in characters.
const FIELD_MANAGER_MAX: usize = 128;

impl WriteOptions {
    /// Reads and checks the options. `kind` names the options object in errors (`CreateOptions`, …).
    pub fn parse(query: &Query, kind: &str, apply: bool) -> Result<WriteOptions, Status> {
        let mut errors = ErrorList::new();
        for value in query.all("dryRun") {
            if !matches!(value, "" | "All") {
                errors.push(Error::not_supported(&Path::new("dryRun"), value, &["All"]));
            }
        }
        let text = query.get("fieldValidation");
        let field_validation = FieldValidation::parse(text).unwrap_or_else(|| {
            let at = Path::new("fieldValidation");
            errors.push(Error::not_supported(&at, text, &["", "Ignore", "Strict", "Warn"]));
            FieldValidation::Warn
        });
        let manager = query.get("fieldManager");
        let at = Path::new("fieldManager");
        if manager.len() > FIELD_MANAGER_MAX {
            errors.push(Error::too_long(&at, FIELD_MANAGER_MAX));
        }
        if let Some(c) = manager.chars().find(|c| c.is_control()) {
            errors.push(Error::invalid(&at, manager, format!("invalid character {c:?}")));
        }
        if apply && manager.is_empty() {
            errors.push(Error::required(&at, "is required for apply patch"));
        }
        if !apply && kind == "PatchOptions" && query.has("force") {
            errors.push(Error::forbidden(&Path::new("force"), "may not be specified for non-apply patch"));
        }
        if !errors.is_empty() {
            return Err(Status::invalid("meta.k8s.io", kind, "", &errors));
        }
        Ok(WriteOptions {
            dry_run: query.all("dryRun").any(|v| v == "All"),
            field_validation,
            field_manager: manager.to_owned(),
            force: query.flag("force"),
        })
    }
}
