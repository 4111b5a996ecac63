//! What a registry says it wants when it answers 401: the `WWW-Authenticate` header.
//!
//! A server may offer several schemes in one header or in many. Parameters may be quoted, and quoted text
//! may hold commas, so this cannot be done by splitting.

use reqwest::header::{HeaderMap, WWW_AUTHENTICATE};

/// The way in that a registry offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::registry) enum Challenge {
    /// Get a token from a service first.
    Bearer {
        /// The token service's address.
        realm: String,
        /// What the registry is called there.
        service: Option<String>,
        /// What the registry thinks we need.
        scope: Option<String>,
    },
    /// Show user name and password with each request.
    Basic,
}

impl Challenge {
    /// The best way in that an answer offers: tokens, since they may be had without an account, then passwords.
    pub(in crate::registry) fn of(headers: &HeaderMap) -> Option<Self> {
        let offers: Vec<Self> = headers
            .get_all(WWW_AUTHENTICATE)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(parse)
            .collect();
        let bearer = offers
            .iter()
            .find(|offer| matches!(offer, Self::Bearer { .. }));
        bearer.or(offers.first()).cloned()
    }
}

/// All offers of one header that we know how to take.
fn parse(header: &str) -> Vec<Challenge> {
    let mut rest = header;
    let mut offers: Vec<(String, Vec<(String, String)>)> = Vec::new();
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let name_len = rest.find([' ', '\t', ',', '=']).unwrap_or(rest.len());
        if name_len == 0 {
            break;
        }
        let (name, tail) = rest.split_at(name_len);
        rest = tail.trim_start_matches([' ', '\t']);
        let name = name.to_ascii_lowercase();
        match (rest.strip_prefix('='), offers.last_mut()) {
            (Some(tail), Some((_, params))) => {
                let (value, tail) = parse_value(tail.trim_start_matches([' ', '\t']));
                params.push((name, value));
                rest = tail;
            }
            (Some(_), None) => break,
            (None, _) => offers.push((name, Vec::new())),
        }
    }
    offers
        .into_iter()
        .filter_map(|(scheme, params)| offer(&scheme, &params))
        .collect()
}

fn offer(scheme: &str, params: &[(String, String)]) -> Option<Challenge> {
    let param = |name: &str| {
        let found = params.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.clone())
    };
    match scheme {
        "basic" => Some(Challenge::Basic),
        "bearer" => Some(Challenge::Bearer {
            realm: param("realm")?,
            service: param("service"),
            scope: param("scope"),
        }),
        _ => None,
    }
}

/// A token or a quoted string, and what follows it.
fn parse_value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ' ', '\t']).unwrap_or(text.len());
        let (value, rest) = text.split_at(end);
        return (value.to_owned(), rest);
    };
    let mut value = String::new();
    let mut chars = quoted.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' => break,
            '\\' => value.extend(chars.next()),
            c => value.push(c),
        }
    }
    (value, chars.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(headers: &[&str]) -> Option<Challenge> {
        let mut map = HeaderMap::new();
        for header in headers {
            map.append(WWW_AUTHENTICATE, header.parse().unwrap());
        }
        Challenge::of(&map)
    }

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Challenge {
        Challenge::Bearer {
            realm: realm.into(),
            service: service.map(str::to_owned),
            scope: scope.map(str::to_owned),
        }
    }

    #[test]
    fn scopes_hold_commas() {
        assert_eq!(
            of(&[r#"Bearer realm="https://a/t",service="s",scope="repository:x:pull,push""#]),
            Some(bearer(
                "https://a/t",
                Some("s"),
                Some("repository:x:pull,push")
            ))
        );
    }

    #[test]
    fn odd_spellings_are_understood() {
        assert_eq!(
            of(&[r#"bearer  Realm = "https://a/\"t" , service=s,"#]),
            Some(bearer("https://a/\"t", Some("s"), None))
        );
        assert_eq!(of(&["BASIC"]), Some(Challenge::Basic));
        assert_eq!(of(&[r#"Basic realm="a registry""#]), Some(Challenge::Basic));
    }

    #[test]
    fn tokens_are_preferred_to_passwords() {
        let both = Some(bearer("https://a", None, None));
        assert_eq!(of(&[r#"Basic realm="x", Bearer realm="https://a""#]), both);
        assert_eq!(of(&["Basic", r#"Bearer realm="https://a""#]), both);
        assert_eq!(of(&["Negotiate", "Basic"]), Some(Challenge::Basic));
    }

    #[test]
    fn nonsense_offers_nothing() {
        for header in [
            "",
            ",,,",
            "=",
            "=x",
            "Bearer",
            "Bearer service=s",
            "Digest realm=\"x\"",
            "\"",
        ] {
            assert_eq!(of(&[header]), None, "{header}");
        }
        assert_eq!(of(&[]), None);
        assert_eq!(
            of(&["Bearer realm=\"open"]),
            Some(bearer("open", None, None))
        );
    }
}
