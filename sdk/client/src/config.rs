//! How to reach a node, and who the client is.

use std::path::{Path, PathBuf};
use std::time::Duration;

use weir_core::wire::DEFAULT_PORT;
use weir_transport::{ClientTls, Identity, IdentityError, NODE_SERVER_NAME, Trust};

use crate::error::ConnectError;

/// Most addresses in [`ClientConfig::server`].
const SERVERS_MAX: usize = 64;

/// How to reach a node, and who the client is.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// Where the node is: `host:port`, or several of them separated by commas, of which any that
    /// answers will do. The port may be left out where it is 7447. Names are resolved at each
    /// connect, so a changed address is found.
    pub server: String,
    /// The name that the node's certificate must hold. All node certificates hold `weir`, which
    /// is the default: what a client relies on is the authority that issued them.
    pub server_name: String,
    /// Whom to trust, and who the client is.
    pub tls: TlsConfig,
    /// Program and version of the application, for the node's log.
    pub client_name: String,
    /// Longest time that one address may take to answer, hello included.
    pub connect_timeout: Duration,
    /// Longest time that one control request may take, reconnecting included.
    pub request_timeout: Duration,
    /// Size of UDP payloads where it is known, in bytes. `None`: 6,000 over loopback, elsewhere
    /// what discovery finds.
    pub mtu: Option<u16>,
}

impl ClientConfig {
    /// A node at `server` whose certificate was issued by the authority in `tls`; everything else
    /// as by default.
    #[must_use]
    pub fn new(server: impl Into<String>, tls: TlsConfig) -> ClientConfig {
        ClientConfig {
            server: server.into(),
            server_name: NODE_SERVER_NAME.to_owned(),
            tls,
            client_name: concat!("weir-client/", env!("CARGO_PKG_VERSION")).to_owned(),
            connect_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(10),
            mtu: None,
        }
    }

    /// The addresses in `server`, each with a port.
    pub(crate) fn addresses(&self) -> Result<Vec<String>, ConnectError> {
        let parts = self.server.split(',').map(str::trim).filter(|part| !part.is_empty());
        let addresses: Vec<String> = parts.map(with_port).collect();
        if addresses.is_empty() || addresses.len() > SERVERS_MAX {
            return Err(ConnectError::Config(format!(
                "`{}` is not a list of 1 to {SERVERS_MAX} addresses such as `host:port`",
                self.server
            )));
        }
        Ok(addresses)
    }
}

/// `part` with the default port where it names none.
fn with_port(part: &str) -> String {
    let bare_v6 = part.matches(':').count() > 1 && !part.starts_with('[');
    if bare_v6 {
        return format!("[{part}]:{DEFAULT_PORT}");
    }
    let after_host = part.rfind(']').map_or(part, |end| &part[end..]);
    if after_host.contains(':') { part.to_owned() } else { format!("{part}:{DEFAULT_PORT}") }
}

/// Whom the client trusts, and who it is.
#[derive(Clone, Debug)]
pub struct TlsConfig {
    /// Certificates of the authorities whose nodes are trusted (`ca.pem` of the node's data
    /// folder).
    pub ca: Pem,
    /// The client's certificate and its private key. Without one the client is anonymous, which
    /// a node accepts over loopback only, unless it was told otherwise.
    pub identity: Option<(Pem, Pem)>,
}

impl TlsConfig {
    /// Trusts the authorities in the file `ca`; anonymous.
    #[must_use]
    pub fn from_ca_file(ca: impl AsRef<Path>) -> TlsConfig {
        TlsConfig { ca: Pem::Path(ca.as_ref().to_owned()), identity: None }
    }

    /// Trusts the authorities in a PEM text; anonymous.
    #[must_use]
    pub fn from_ca_pem(ca: impl Into<Vec<u8>>) -> TlsConfig {
        TlsConfig { ca: Pem::Bytes(ca.into()), identity: None }
    }

    /// The same with a client certificate and its private key.
    #[must_use]
    pub fn with_identity(mut self, certificate: Pem, key: Pem) -> TlsConfig {
        self.identity = Some((certificate, key));
        self
    }

    /// Reads what is in files.
    pub(crate) fn load(&self, server_name: &str) -> Result<ClientTls, IdentityError> {
        let trust = match &self.ca {
            Pem::Path(path) => Trust::from_file(path)?,
            Pem::Bytes(bytes) => Trust::from_pem(bytes)?,
        };
        let mut tls = ClientTls::new(trust);
        tls.server_name = server_name.to_owned();
        match &self.identity {
            None => Ok(tls),
            Some((Pem::Path(certificate), Pem::Path(key))) => {
                Ok(tls.with_identity(Identity::from_files(certificate, key)?))
            }
            Some((certificate, key)) => {
                let identity = Identity::from_pem(&certificate.read()?, &key.read()?)?;
                Ok(tls.with_identity(identity))
            }
        }
    }
}

/// A PEM text, or the file that holds it.
#[derive(Clone)]
pub enum Pem {
    /// The file that holds it; read when the client is made.
    Path(PathBuf),
    /// The text itself.
    Bytes(Vec<u8>),
}

impl Pem {
    fn read(&self) -> Result<Vec<u8>, IdentityError> {
        match self {
            Pem::Path(path) => std::fs::read(path)
                .map_err(|source| IdentityError::Io { path: path.clone(), source }),
            Pem::Bytes(bytes) => Ok(bytes.clone()),
        }
    }
}

/// Never shows the text: it may be a private key.
impl std::fmt::Debug for Pem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Pem::Path(path) => f.debug_tuple("Path").field(path).finish(),
            Pem::Bytes(bytes) => write!(f, "Bytes({} bytes)", bytes.len()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(server: &str) -> Vec<String> {
        let config = ClientConfig::new(server, TlsConfig::from_ca_pem(""));
        config.addresses().unwrap_or_default()
    }

    /// Goal: every way to write an address gives one with a port, and nonsense is refused.
    #[test]
    fn addresses_get_the_default_port() {
        assert_eq!(addresses("a"), ["a:7447"]);
        assert_eq!(addresses(" a:1 , b ,"), ["a:1", "b:7447"]);
        assert_eq!(addresses("127.0.0.1"), ["127.0.0.1:7447"]);
        assert_eq!(addresses("::1"), ["[::1]:7447"]);
        assert_eq!(addresses("[::1]"), ["[::1]:7447"]);
        assert_eq!(addresses("[::1]:9"), ["[::1]:9"]);
        assert!(addresses(" , ").is_empty());
        assert!(addresses(&"a,".repeat(65)).is_empty());
    }

    /// Goal: a private key does not end up in a log.
    #[test]
    fn debug_output_hides_keys() {
        assert_eq!(format!("{:?}", Pem::Bytes(b"secret".to_vec())), "Bytes(6 bytes)");
    }
}
