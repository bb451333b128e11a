//! The folder with the site's authority: made, completed, kept, and refused where it is unclear.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use weir_transport::{
    Authority, AuthorityError, CertificateFacts, ClientAuth, Clock, Identity, NodeCredentials,
    NodeNames, PeerKind,
};

use crate::support::{DAY, Node, Site, client, clock_ahead, connect};

const FILES: [&str; 4] = ["ca.key", "ca.pem", "node.key", "node.pem"];

fn names() -> NodeNames {
    NodeNames::new("edge-1").unwrap()
}

fn load(dir: &Path) -> Result<NodeCredentials, AuthorityError> {
    Authority::load_or_create(dir, &names(), &Clock::system())
}

fn contents(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap()))
        .collect()
}

/// Goal: a first start makes everything, a second one changes nothing.
#[test]
fn first_and_second_start() {
    let dir = tempfile::tempdir().unwrap();
    let tls = dir.path().join("tls");
    let first = load(&tls).unwrap();
    assert!(first.authority_created);
    assert!(first.node_issued.is_some());
    assert_eq!(first.warnings, Vec::<String>::new());
    let made = contents(&tls);
    assert_eq!(made.keys().map(String::as_str).collect::<Vec<_>>(), FILES);
    #[cfg(unix)]
    for (name, expected) in FILES.into_iter().zip([0o600, 0o644, 0o600, 0o644]) {
        use std::os::unix::fs::PermissionsExt;
        let mode = fs::metadata(tls.join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, expected & mode, "{name}");
        assert_eq!(mode & 0o077 == 0, expected == 0o600, "{name}");
    }
    let second = load(&tls).unwrap();
    assert!(!second.authority_created);
    assert_eq!(second.node_issued, None);
    assert_eq!(contents(&tls), made);

    let facts = second.identity.facts().unwrap();
    assert_eq!(facts.kind, PeerKind::Node);
    assert_eq!(facts.principal, "edge-1");
    for name in ["weir", "localhost", "edge-1"] {
        assert!(facts.names.iter().any(|held| held == name), "{name}");
    }
    for address in ["127.0.0.1", "::1"] {
        assert!(facts.addresses.contains(&address.parse().unwrap()), "{address}");
    }
}

/// Goal: a crash at any point of a first start is made good by the next one, without a new key.
/// Method: every prefix of the order of writing, with a temporary file of the step that died.
#[test]
fn a_crash_at_every_step() {
    let made = tempfile::tempdir().unwrap();
    load(made.path()).unwrap();
    let made = contents(made.path());
    for present in 0..=FILES.len() {
        let dir = tempfile::tempdir().unwrap();
        for name in &FILES[..present] {
            fs::write(dir.path().join(name), &made[*name]).unwrap();
        }
        if let Some(next) = FILES.get(present) {
            fs::write(dir.path().join(format!(".new-{next}")), b"half").unwrap();
        }
        let loaded = load(dir.path()).unwrap_or_else(|error| panic!("{present}: {error}"));
        assert!(loaded.authority.can_issue());
        let now = contents(dir.path());
        assert_eq!(now.keys().map(String::as_str).collect::<Vec<_>>(), FILES, "{present}");
        for name in &FILES[..present] {
            assert_eq!(now[*name], made[*name], "{name} of {present}");
        }
    }
}

/// Goal: a lost `ca.pem` is made again from its key, and what it had issued goes on working.
#[tokio::test]
async fn a_lost_authority_certificate() {
    let dir = tempfile::tempdir().unwrap();
    let before = load(dir.path()).unwrap();
    let old_client = before.authority.issue_client("old", DAY).unwrap().identity().unwrap();
    let old_trust = before.authority.trust().clone();
    fs::remove_file(dir.path().join("ca.pem")).unwrap();
    let after = load(dir.path()).unwrap();
    assert!(after.authority_created);
    assert_eq!(after.node_issued, None, "the node's certificate still fits");

    let site = Site { authority: after.authority };
    let mut listen = site.listen(ClientAuth::Required);
    listen.identity = after.identity;
    let mut node = Node::start(listen);
    let endpoint = client(weir_transport::ClientTls::new(old_trust).with_identity(old_client));
    let (_of_client, of_node) = tokio::join!(connect(&endpoint, node.address), node.connection());
    assert_eq!(of_node.peer().principal.as_deref(), Some("old"));
}

/// Goal: what does not fit together is refused and left alone.
#[test]
fn unclear_folders_are_refused() {
    let made = tempfile::tempdir().unwrap();
    load(made.path()).unwrap();
    let other = tempfile::tempdir().unwrap();
    load(other.path()).unwrap();
    let (made, other) = (contents(made.path()), contents(other.path()));
    let file =
        |name: &str, content: &BTreeMap<String, Vec<u8>>| (name.to_owned(), content[name].clone());
    let bad = |name: &str| (name.to_owned(), b"garbage".to_vec());
    // Which files there are, and what the text must say.
    let cases = [
        (vec![file("node.pem", &made), file("node.key", &made)], "no ca.pem"),
        (vec![file("node.key", &made)], "no ca.pem"),
        (vec![file("ca.pem", &made)], "neither is ca.key"),
        (vec![file("ca.pem", &made), file("node.pem", &made)], "neither is ca.key"),
        (vec![file("ca.pem", &made), file("ca.key", &other)], "belong to ca.pem"),
        (vec![bad("ca.pem"), file("ca.key", &made)], "ca.pem"),
        (vec![bad("ca.key")], "ca.key"),
    ];
    for (files, text) in cases {
        let dir = tempfile::tempdir().unwrap();
        for (name, content) in files {
            fs::write(dir.path().join(name), content).unwrap();
        }
        let before = contents(dir.path());
        let error = load(dir.path()).unwrap_err().to_string();
        assert!(error.contains(text), "{error} should say {text}");
        assert_eq!(contents(dir.path()), before, "{error}");
    }
}

/// Goal: a node's certificate is issued anew before it expires, for new names, and when it does
/// not belong here, each time for the key that is there.
#[test]
fn the_node_certificate_is_renewed() {
    let dir = tempfile::tempdir().unwrap();
    load(dir.path()).unwrap();
    let key = fs::read(dir.path().join("node.key")).unwrap();

    let late = clock_ahead(DAY * 365 * 9 + DAY * 60);
    let renewed = Authority::load_or_create(dir.path(), &names(), &late).unwrap();
    assert!(renewed.node_issued.unwrap().contains("expires on"));
    let again = Authority::load_or_create(dir.path(), &names(), &late).unwrap();
    assert_eq!(again.node_issued, None);

    let more = names().with("edge.example").unwrap().with("192.0.2.7").unwrap();
    let named = Authority::load_or_create(dir.path(), &more, &late).unwrap();
    assert!(named.node_issued.unwrap().contains("names"));
    let facts = named.identity.facts().unwrap();
    assert!(facts.names.contains(&"edge.example".to_owned()));
    assert!(facts.addresses.contains(&"192.0.2.7".parse().unwrap()));

    let foreign = Site::new().authority.issue_node(&names(), DAY).unwrap().certificate;
    fs::write(dir.path().join("node.pem"), foreign).unwrap();
    assert!(load(dir.path()).unwrap().node_issued.unwrap().contains("belong"));
    assert_eq!(fs::read(dir.path().join("node.key")).unwrap(), key);
}

/// Goal: a node whose authority key was taken away works with what it has, and warns in time.
#[test]
fn without_the_authority_key() {
    let dir = tempfile::tempdir().unwrap();
    load(dir.path()).unwrap();
    fs::remove_file(dir.path().join("ca.key")).unwrap();
    let loaded = load(dir.path()).unwrap();
    assert!(!loaded.authority.can_issue());
    assert_eq!(loaded.warnings, Vec::<String>::new());
    let refused = loaded.authority.issue_client("a", DAY);
    assert!(matches!(refused, Err(AuthorityError::NoKey)));

    for (ahead, text) in [(DAY * 365 * 9 + DAY * 60, "expires on"), (DAY * 365 * 11, "expired")] {
        let before = contents(dir.path());
        let late = Authority::load_or_create(dir.path(), &names(), &clock_ahead(ahead)).unwrap();
        assert!(late.warnings[0].contains(text), "{:?}", late.warnings);
        assert_eq!(contents(dir.path()), before);
    }
}

#[cfg(unix)]
#[test]
fn a_key_that_others_can_read() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    load(dir.path()).unwrap();
    let key = dir.path().join("node.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let warnings = load(dir.path()).unwrap().warnings;
    assert!(warnings[0].contains("node.key"), "{warnings:?}");
    assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(load(dir.path()).unwrap().warnings, Vec::<String>::new());
}

#[test]
fn what_is_issued() {
    let site = Site::new();
    let facts = |pem: &str| CertificateFacts::from_pem(pem.as_bytes()).unwrap();
    let authority = facts(site.authority.certificate_pem());
    let client = facts(&site.authority.issue_client("a@b", DAY).unwrap().certificate);
    assert_eq!((client.kind, client.principal.as_str()), (PeerKind::Client, "a@b"));
    assert!(client.names.is_empty() && client.addresses.is_empty());
    assert_eq!(client.not_before.as_date_time().unix_timestamp(), 0);
    let for_ever = site.authority.issue_client("a", Duration::from_secs(1 << 33)).unwrap();
    assert_eq!(facts(&for_ever.certificate).not_after, authority.not_after);

    let too_long = "x".repeat(250);
    for name in ["", "a b", "a/b", "ü", "a\n", "*", &too_long] {
        let refused = site.authority.issue_client(name, DAY);
        assert!(matches!(refused, Err(AuthorityError::InvalidName { .. })), "{name:?}");
        assert!(NodeNames::new(name).is_err(), "{name:?}");
    }
    for name in ["", "a b", "ü.example"] {
        assert!(names().with(name).is_err(), "{name:?}");
    }
}

/// Goal: `weir cert` can issue from the folder without touching it.
#[test]
fn loading_to_issue() {
    let dir = tempfile::tempdir().unwrap();
    let missing = Authority::load(dir.path(), &Clock::system());
    assert!(matches!(missing, Err(AuthorityError::HalfMade { .. })));
    load(dir.path()).unwrap();
    let before = contents(dir.path());
    let authority = Authority::load(dir.path(), &Clock::system()).unwrap();
    let pair = authority.issue_client("tool", DAY).unwrap();
    let identity = Identity::from_pem(pair.certificate.as_bytes(), pair.key.as_bytes()).unwrap();
    assert_eq!(identity.facts().unwrap().principal, "tool");
    assert_eq!(contents(dir.path()), before);
}
