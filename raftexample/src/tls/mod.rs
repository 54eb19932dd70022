//! TLS for clients and for peers: rustls, with the files that an operator gives.
//!
//! Each of the two ports has its own [`TlsFiles`]: a certificate with its key, and perhaps the certificates of those who
//! vouch for the other side. [`Tls`] is what is made of them: what a server needs to accept, and what a node needs to dial
//! its peers. TLS 1.2 and 1.3 are spoken, nothing older.
//!
//! **Who is trusted.**
//!
//! | side | trusts |
//! |---|---|
//! | a node that dials a peer | a certificate that the peers' CA vouches for, and that names the host in the peer's URL |
//! | a node that a peer dials | with `--peer-client-cert-auth`: whoever the peers' CA vouches for. Without: everybody |
//! | a node that a client dials | with `--client-cert-auth`: whoever the clients' CA vouches for. Without: everybody |
//!
//! A certificate says "may be a peer", not "is node 3": as in etcd, ids are not bound to certificates, so the peers' CA
//! should sign nothing but peers.
//!
//! **Files change**, because certificates expire. They are looked at every second; when one has changed, all are read anew,
//! and connections from then on use them. Files that cannot be used are reported, and the former ones stay in use:
//! whoever replaces a certificate and its key one after the other is not punished. At the start, the same faults are
//! refused.
//!
//! What is left out: lists of revoked certificates, and names that a peer's certificate must bear beyond its host.

pub mod throwaway;

use std::fmt;
use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use tokio::runtime::Handle;
use tokio_rustls::rustls;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use rustls::client::danger::ServerCertVerifier;
use rustls::client::WebPkiServerVerifier;
use rustls::crypto::{ring, CryptoProvider};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{CertificateError, ClientConfig, ClientConnection, RootCertStore, ServerConfig, StreamOwned};

/// Time between two looks at the files.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// The only protocol that is spoken inside.
const PROTOCOL: &[u8] = b"http/1.1";

/// The files of one port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate, and those between it and its CA, in PEM.
    pub cert: PathBuf,
    /// Its private key, in PEM.
    pub key: PathBuf,
    /// Certificates of those who vouch for the other side, in PEM.
    pub trusted_ca: Option<PathBuf>,
    /// Whoever connects must have a certificate that one of those vouches for.
    pub client_auth: bool,
}

/// Why files cannot be used: one line that names the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsError(String);

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for TlsError {}

/// What was made of one port's files, as they were when last they could be used. Clones share it.
#[derive(Clone)]
pub struct Tls {
    files: Arc<TlsFiles>,
    /// As the files were just before they were read: what changes after that is noticed.
    stamps: Stamps,
    /// A lock, because new files come while connections do; each connection takes it once.
    current: Arc<RwLock<Current>>,
}

struct Current {
    server: Arc<ServerConfig>,
    /// There is none without a CA.
    client: Option<Arc<ClientConfig>>,
}

impl Tls {
    /// Reads and checks the files.
    pub fn load(files: TlsFiles) -> Result<Tls, TlsError> {
        let stamps = Stamps::of(&files);
        let current = read(&files)?;
        Ok(Tls { files: Arc::new(files), stamps, current: Arc::new(RwLock::new(current)) })
    }

    /// Accepts with the files that are in use now.
    pub fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.current.read().server))
    }

    /// Dials with the files that are in use now; `None` if there is nobody to trust.
    pub fn connector(&self) -> Option<TlsConnector> {
        self.current.read().client.as_ref().map(|client| TlsConnector::from(Arc::clone(client)))
    }

    /// Speaks TLS as a client on a connection of the standard library; `None` if there is nobody to trust.
    pub fn dial(&self, stream: TcpStream, host: &str) -> Option<StreamOwned<ClientConnection, TcpStream>> {
        let config = self.current.read().client.clone()?;
        let name = ServerName::try_from(host.to_string()).ok()?;
        Some(StreamOwned::new(ClientConnection::new(config, name).ok()?, stream))
    }

    /// Looks for new files from now on, for as long as the runtime lives. `whose` is for the log: `clients` or `peers`.
    pub fn follow_files(&self, whose: &'static str, runtime: &Handle) {
        let tls = self.clone();
        let mut seen = tls.stamps.clone();
        runtime.spawn(async move {
            let mut looks = tokio::time::interval(LOOK_INTERVAL);
            loop {
                looks.tick().await;
                let now = Stamps::of(&tls.files);
                if now == seen {
                    continue;
                }
                seen = now;
                match read(&tls.files) {
                    Ok(current) => {
                        *tls.current.write() = current;
                        log::info!("new certificate files for {whose} are in use");
                    }
                    Err(error) => log::error!(
                        "the certificate files for {whose} have changed and cannot be used, so the former ones stay in \
                         use: {error}"
                    ),
                }
            }
        });
    }
}

/// What tells a changed file: when it was written, how long it is, and which one it is.
#[derive(Clone, PartialEq, Eq)]
struct Stamps(Vec<Option<(i64, i64, u64, u64)>>);

impl Stamps {
    fn of(files: &TlsFiles) -> Stamps {
        let stamp = |path: &PathBuf| {
            let metadata = fs::metadata(path).ok()?;
            Some((metadata.mtime(), metadata.mtime_nsec(), metadata.len(), metadata.ino()))
        };
        Stamps(
            [Some(&files.cert), Some(&files.key), files.trusted_ca.as_ref()].into_iter().flatten().map(stamp).collect(),
        )
    }
}

fn read(files: &TlsFiles) -> Result<Current, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let chain = certificates(&files.cert)?;
    let key = || PrivateKeyDer::from_pem_file(&files.key).map_err(|error| unusable("private key", &files.key, &error));
    let roots = files.trusted_ca.as_deref().map(trusted).transpose()?;
    check_dates(&files.cert, &chain, &provider)?;
    let wrong = |error: rustls::Error| match error {
        rustls::Error::InconsistentKeys(_) => TlsError(format!(
            "the private key in {} does not belong to the certificate in {}",
            files.key.display(),
            files.cert.display()
        )),
        error => TlsError(format!("cannot use the certificate in {}: {error}", files.cert.display())),
    };
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider));
    let builder = builder.with_safe_default_protocol_versions().map_err(wrong)?;
    let builder = match (&roots, files.client_auth) {
        (Some(roots), true) => {
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::clone(roots), Arc::clone(&provider)).build();
            builder
                .with_client_cert_verifier(verifier.map_err(|error| TlsError(format!("cannot use the CA: {error}")))?)
        }
        _ => builder.with_no_client_auth(),
    };
    let mut server = builder.with_single_cert(chain.clone(), key()?).map_err(wrong)?;
    server.alpn_protocols = vec![PROTOCOL.to_vec()];
    let client = match roots {
        None => None,
        Some(roots) => {
            let builder = ClientConfig::builder_with_provider(provider);
            let builder = builder.with_safe_default_protocol_versions().map_err(wrong)?.with_root_certificates(roots);
            let mut client = builder.with_client_auth_cert(chain, key()?).map_err(wrong)?;
            client.alpn_protocols = vec![PROTOCOL.to_vec()];
            Some(Arc::new(client))
        }
    };
    Ok(Current { server: Arc::new(server), client })
}

fn unusable(what: &str, path: &Path, why: &dyn fmt::Display) -> TlsError {
    TlsError(format!("cannot read a {what} from {}: {why}", path.display()))
}

/// At least one.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let all = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match all {
        Ok(all) if all.is_empty() => Err(unusable("certificate", path, &"there is none in it")),
        Ok(all) => Ok(all),
        Err(error) => Err(unusable("certificate", path, &error)),
    }
}

fn trusted(path: &Path) -> Result<Arc<RootCertStore>, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| unusable("CA certificate", path, &error))?;
    }
    Ok(Arc::new(roots))
}

/// Refuses a certificate whose time is over or has not come. The verifier looks at that before it looks for a CA, and it
/// finds no way to one here: only what it says about dates counts.
fn check_dates(path: &Path, chain: &[CertificateDer<'_>], provider: &Arc<CryptoProvider>) -> Result<(), TlsError> {
    let Some((own, between)) = chain.split_first() else { return Ok(()) };
    let mut roots = RootCertStore::empty();
    roots.add(own.clone().into_owned()).map_err(|error| unusable("certificate", path, &error))?;
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider)).build();
    let Ok(verifier) = verifier else { return Ok(()) };
    let anybody = ServerName::from(std::net::IpAddr::from([127, 0, 0, 1]));
    let why = match verifier.verify_server_cert(own, between, &anybody, &[], UnixTime::now()) {
        Err(rustls::Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. })) => {
            "has expired"
        }
        Err(rustls::Error::InvalidCertificate(
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. },
        )) => "is not valid yet",
        _ => return Ok(()),
    };
    Err(TlsError(format!("the certificate in {} {why}", path.display())))
}

#[cfg(test)]
mod tests;
