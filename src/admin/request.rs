//! Requests to `admin_listen`: which are answered at all.
//!
//! A browser on this machine is a way in for every page that it shows: by a form or a script of another site, or by a name that
//! the site has pointed at this address (DNS rebinding). The first can't set a header of their own, the second can't make the
//! `Host` anything but a name of theirs.

use std::net::IpAddr;

use hyper::header::{HOST, HeaderMap, HeaderName};
use hyper::http::uri::Authority;
use hyper::{Method, StatusCode, Uri};

/// The header without which nothing is changed, and what it must say. No form can send it, and a script of another site has to
/// ask first, which is refused.
pub(crate) const ACTION: (HeaderName, &str) = (HeaderName::from_static("pgferry-action"), "quit");

/// Endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    /// `/`.
    Page,
    /// `/status.json`.
    Status,
    /// `/metrics`.
    Metrics,
    /// `/startup`.
    Startup,
    /// `/live`.
    Live,
    /// `/ready`.
    Ready,
    /// `POST /quitquitquit`.
    Quit,
}

impl Endpoint {
    /// Returns whether answering changes anything.
    #[must_use]
    pub(crate) fn changes(self) -> bool {
        self == Self::Quit
    }
}

/// Refusal of a request: the status, and a text.
pub(crate) type Refusal = (StatusCode, &'static str);

/// The names that a `Host` may have.
#[derive(Clone, Debug, Default)]
pub(crate) struct Names(Vec<String>);

impl Names {
    /// `localhost`, every address (a site can point its name here, but not be an address), and `more`.
    pub(crate) fn new(more: impl IntoIterator<Item = String>) -> Self {
        Self(more.into_iter().map(|name| name.trim().trim_end_matches('.').to_ascii_lowercase()).collect())
    }

    /// Returns whether `host`, with or without a port, is one of them.
    #[must_use]
    pub(crate) fn fit(&self, host: &str) -> bool {
        let Ok(authority) = host.parse::<Authority>() else { return false };
        let port = authority.as_str().strip_prefix(authority.host());
        let is_port = |rest: &str| rest.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok());
        if !port.is_some_and(|rest| rest.is_empty() || is_port(rest)) {
            return false;
        }
        let name = authority.host().trim_end_matches('.').to_ascii_lowercase();
        let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(&name);
        address.parse::<IpAddr>().is_ok() || name == "localhost" || self.0.contains(&name)
    }
}

/// Returns the endpoint that a request asks for. Where browsers can connect, its `Host` must be one of `names`.
///
/// # Errors
/// Why it is not answered.
pub(crate) fn understand(
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
    names: Option<&Names>,
) -> Result<Endpoint, Refusal> {
    if let Some(names) = names {
        let mut hosts = headers.get_all(HOST).iter().map(|host| host.to_str().unwrap_or_default());
        let named = uri.authority().map(Authority::as_str).into_iter().chain(&mut hosts);
        // HTTP/1.0 has no Host; every browser sends one.
        if !named.into_iter().all(|host| names.fit(host)) {
            return Err((
                StatusCode::MISDIRECTED_REQUEST,
                "the Host is neither an address, localhost nor this machine: other names are listed in admin_hosts\n",
            ));
        }
    }
    let endpoint = match uri.path() {
        "/" => Endpoint::Page,
        "/status.json" => Endpoint::Status,
        "/metrics" => Endpoint::Metrics,
        "/startup" => Endpoint::Startup,
        "/live" => Endpoint::Live,
        "/ready" => Endpoint::Ready,
        "/quitquitquit" => Endpoint::Quit,
        _ => {
            return Err((
                StatusCode::NOT_FOUND,
                "there are /, /status.json, /metrics, /startup, /ready, /live, /quitquitquit\n",
            ));
        }
    };
    if endpoint.changes() {
        if method != Method::POST {
            return Err((StatusCode::METHOD_NOT_ALLOWED, "POST only\n"));
        }
        let (name, value) = ACTION;
        if headers.get(name).is_none_or(|said| said != value) {
            return Err((
                StatusCode::FORBIDDEN,
                "send the header \"Pgferry-Action: quit\", which pages of other sites can't\n",
            ));
        }
    } else if !matches!(*method, Method::GET | Method::HEAD) {
        return Err((StatusCode::METHOD_NOT_ALLOWED, "GET only\n"));
    }
    Ok(endpoint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_that_no_site_can_have_are_taken() {
        let names = Names::new(["Metrics.Shop.svc.".to_owned()]);
        for host in [
            "localhost",
            "LOCALHOST:9930",
            "127.0.0.1:9930",
            "[::1]:9930",
            "10.1.2.3",
            "metrics.shop.svc:1",
            "localhost.",
        ] {
            assert!(names.fit(host), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "a@localhost",
            "localhost@evil.example",
            "localhost:9evil",
            "localhost:",
            "127.0.0.1:80:80",
            "[::1]evil",
            "x y",
            "shop.svc",
        ] {
            assert!(!names.fit(host), "{host}");
        }
    }
}
