//! What this machine knows of a client without asking it: its user, its certificate.

use nix::unistd::{Uid, User};
use tokio::time::timeout_at;

use super::LoginAttempt;
use super::console::shares_namespaces;
use crate::config::{Auth, CertName, PeerRule};
use crate::error::{ClientError, ErrorSource, sqlstate};
use crate::net::Peer;
use crate::net::tls::certificate::Certificate;
use crate::offload::SerialExecutor;

/// The uid that stands for those without a mapping (`/proc/sys/kernel/overflowuid`; its default).
const OVERFLOW_UID: u32 = 65_534;

impl LoginAttempt<'_> {
    /// The methods `trust`, `peer` and `cert`: whether the client may be the role it wants to be, and whether there may be
    /// a credential for it.
    pub(super) async fn local(&self) -> Result<(), ClientError> {
        match self.rule.method {
            Auth::Peer => self.peer().await?,
            Auth::Cert => self.certificate()?,
            _ => {}
        }
        let role = self.shown_user();
        if self.settings.forced_role(self.database).is_some() {
            return Ok(());
        }
        let Some(user) = &self.shared.settings_of(self.database).upstream.url.user else { return Ok(()) };
        let has_own = user.as_bytes() == self.user || self.settings.auth.users.contains_key(self.user);
        if has_own || self.credential(None, self.user).await.is_some() {
            return Ok(());
        }
        Err(refusal(format!("there is no upstream credential for user \"{role}\"")).hint(format!(
            "With the method \"{}\" clients connect as the user of the upstream URL: \"{user}\".",
            self.rule.method
        )))
    }

    async fn peer(&self) -> Result<(), ClientError> {
        let role = self.shown_user();
        let Ok(Peer::Unix { uid, gid, .. }) = self.conn.stream().peer() else {
            return Err(refusal("peer authentication works on unix sockets only".into()));
        };
        // That uid is also every one that this user namespace does not map: any user of any other container.
        if uid == OVERFLOW_UID
            && let Err(why) = shares_namespaces(self.conn).await
        {
            return Err(refusal(format!("Peer authentication failed for user \"{role}\"")).detail(format!(
                "The client runs as uid {uid}, which stands for the unmapped ones of other user namespaces: {why}."
            )));
        }
        let names = self.shared.client_auth.load().names.clone();
        let limit = self.settings.timeouts.client_login_timeout;
        let found = timeout_at(self.deadline, peer_may_be(&self.settings.auth.peer, uid, gid, &role, &names)).await;
        if found.map_err(|_| super::timed_out(limit))? {
            return Ok(());
        }
        Err(refusal(format!("Peer authentication failed for user \"{role}\""))
            .detail(format!("The client runs as uid {uid}, gid {gid}."))
            .hint("The rules are the [[peer]] tables of pgferry's configuration."))
    }

    /// Returns whether the client's certificate, which was verified in the handshake, is that of the role.
    fn certificate(&self) -> Result<(), ClientError> {
        let shown = self.conn.stream().tls().and_then(|tls| tls.peer_certificates().first());
        let Some(shown) = shown else {
            return Err(refusal("connection requires a valid client certificate".into()));
        };
        let role = self.shown_user();
        let names = Certificate::read(shown).map(|certificate| match self.rule.cert_name {
            CertName::Cn => certificate.common_name().into_iter().collect(),
            CertName::San => certificate.names(),
        });
        if names.unwrap_or_default().iter().any(|name| name.as_bytes() == self.user) {
            return Ok(());
        }
        Err(refusal(format!("certificate authentication failed for user \"{role}\"")))
    }
}

fn refusal(message: String) -> ClientError {
    ClientError::fatal(ErrorSource::Client, sqlstate::INVALID_AUTHORIZATION, message)
}

async fn peer_may_be(rules: &[PeerRule], uid: u32, gid: u32, role: &str, names: &SerialExecutor) -> bool {
    let needs_name = rules.iter().any(|rule| rule.user.is_some() || rule.roles.is_empty());
    let name = if needs_name {
        // The name service may go to the network.
        let found = names.run(move || User::from_uid(Uid::from_raw(uid))).await;
        found.ok().and_then(Result::ok).flatten().map(|user| user.name)
    } else {
        None
    };
    rules.iter().any(|rule| {
        rule.uid.is_none_or(|wanted| wanted == uid)
            && rule.gid.is_none_or(|wanted| wanted == gid)
            && rule.user.as_ref().is_none_or(|wanted| Some(wanted) == name.as_ref())
            && match rule.roles.as_slice() {
                [] => name.as_deref() == Some(role),
                roles => roles.iter().any(|allowed| allowed == "*" || allowed == role),
            }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn peer_rules() {
        let rules = PeerRule::parse_list("uid=1000 roles=app,reports; gid=33 roles=*; uid=0 gid=0").expect("good");
        let names = SerialExecutor::default();
        assert!(peer_may_be(&rules, 1000, 5, "app", &names).await);
        assert!(!peer_may_be(&rules, 1000, 5, "root", &names).await);
        assert!(peer_may_be(&rules, 7, 33, "any", &names).await);
        assert!(!peer_may_be(&rules, 7, 34, "any", &names).await);
        assert!(peer_may_be(&rules, 0, 0, "root", &names).await, "no roles: the role named like the user");
        assert!(!peer_may_be(&rules, 0, 0, "app", &names).await);
    }
}
