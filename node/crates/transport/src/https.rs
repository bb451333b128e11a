//! TLS for requests over HTTPS that a node sends on behalf of its modules.
//!
//! Other servers than Weir's: TLS 1.2 is accepted too, names are those of the web, and who is
//! trusted are the system's authorities or those of a file.

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use std::io;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Why nobody is trusted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HttpsError {
    /// The system has no authorities.
    #[error(
        "this system has no certificates of authorities{0}: install its package of them (often \
         called ca-certificates), or name a file"
    )]
    NoneFound(String),
    /// The file has none.
    #[error("no certificates of authorities in PEM: {0}")]
    Pem(String),
}

/// A client of HTTPS servers. Cheap to clone.
#[derive(Clone)]
pub struct HttpsClient {
    connector: TlsConnector,
}

impl std::fmt::Debug for HttpsClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HttpsClient").finish_non_exhaustive()
    }
}

impl HttpsClient {
    /// Trusts the authorities that the system trusts. Reads files.
    ///
    /// # Errors
    /// [`HttpsError::NoneFound`].
    pub fn of_system() -> Result<HttpsClient, HttpsError> {
        let found = rustls_native_certs::load_native_certs();
        let mut roots = RootCertStore::empty();
        // One that cannot be read is one authority less, not a reason to trust nobody.
        let (added, _) = roots.add_parsable_certificates(found.certs);
        if added == 0 {
            let why = found.errors.first().map_or_else(String::new, |error| format!(" ({error})"));
            return Err(HttpsError::NoneFound(why));
        }
        HttpsClient::new(roots)
    }

    /// Trusts the authorities whose certificates are in `pem`, and no others.
    ///
    /// # Errors
    /// [`HttpsError::Pem`].
    pub fn of_pem(pem: &str) -> Result<HttpsClient, HttpsError> {
        let wrong = |error: &dyn std::fmt::Display| HttpsError::Pem(error.to_string());
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
            let certificate = certificate.map_err(|error| wrong(&error))?;
            roots.add(certificate).map_err(|error| wrong(&error))?;
        }
        if roots.is_empty() {
            return Err(wrong(&"there is no CERTIFICATE section"));
        }
        HttpsClient::new(roots)
    }

    fn new(roots: RootCertStore) -> Result<HttpsClient, HttpsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| HttpsError::Pem(error.to_string()))?;
        let mut config = builder.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(HttpsClient { connector: TlsConnector::from(Arc::new(config)) })
    }

    /// Makes a connection to `host` (a name, or an address without brackets) secure.
    ///
    /// # Errors
    /// The host is none, does not speak TLS, or its certificate is not right.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection.
    pub async fn secure(&self, host: &str, tcp: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from(host.to_owned());
        let name = name.map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        self.connector.connect(name, tcp).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Authority, Clock};
    use rustls::pki_types::PrivateKeyDer;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// Goal: certificates are taken from PEM, and a file without any is refused, not trusted as
    /// nobody.
    #[test]
    fn authorities_of_a_file() {
        let authority = Authority::in_memory(&Clock::system()).unwrap();
        assert!(HttpsClient::of_pem(authority.certificate_pem()).is_ok());
        let cut = "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n";
        for wrong in ["", "no certificate", cut] {
            assert!(matches!(HttpsClient::of_pem(wrong), Err(HttpsError::Pem(_))), "{wrong}");
        }
    }

    /// Goal: a server is talked to only where its certificate is of a trusted authority and holds
    /// the name that was asked for.
    #[tokio::test]
    async fn servers_are_checked() {
        let signed = |name: &str| rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        let (right, other) = (signed("localhost"), signed("localhost"));
        let key = PrivateKeyDer::try_from(right.signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![right.cert.der().clone()], key)
            .unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                // A client that does not like the certificate goes away.
                let Ok(mut stream) = acceptor.accept(tcp).await else { continue };
                let mut byte = [0; 1];
                stream.read_exact(&mut byte).await.unwrap();
                stream.write_all(&byte).await.unwrap();
            }
        });
        let pem = (right.cert.pem(), other.cert.pem());
        for (pem, name, trusted) in [
            (&pem.0, "localhost", true),
            (&pem.0, "example.com", false),
            (&pem.1, "localhost", false),
        ] {
            let tcp = TcpStream::connect(address).await.unwrap();
            let secured = HttpsClient::of_pem(pem).unwrap().secure(name, tcp).await;
            assert_eq!(secured.is_ok(), trusted, "{name}: {:?}", secured.err());
            if let Ok(mut stream) = secured {
                stream.write_all(b"x").await.unwrap();
                assert_eq!(stream.read_u8().await.unwrap(), b'x');
            }
        }
    }
}
