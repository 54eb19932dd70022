//! A certificate authority that exists for one demo: it signs one certificate, and its key is never written down.
//!
//! What is left out: everything that a lasting authority needs. Certificates of real clusters come from elsewhere.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};

use super::TlsFiles;

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Throwaway {
    /// The authority's certificate, for those who connect.
    pub ca: PathBuf,
    /// A certificate for this machine, for servers and clients alike.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

impl Throwaway {
    /// Makes an authority and one certificate for these names and addresses, and writes them into `folder`, which is made
    /// if there is none.
    pub fn make(folder: &Path, names: &[&str]) -> Result<Throwaway, String> {
        let failed = |error: rcgen::Error| format!("cannot make a certificate: {error}");
        let authority_key = KeyPair::generate().map_err(failed)?;
        let mut authority = CertificateParams::default();
        authority.distinguished_name.push(DnType::CommonName, "raftexample's throw-away CA");
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let authority_certificate = authority.self_signed(&authority_key).map_err(failed)?;
        let issuer = Issuer::new(authority, authority_key);

        let key = KeyPair::generate().map_err(failed)?;
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut node = CertificateParams::new(names).map_err(failed)?;
        node.distinguished_name.push(DnType::CommonName, "raftexample");
        node.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = node.signed_by(&key, &issuer).map_err(failed)?;

        fs::create_dir_all(folder).map_err(|error| format!("cannot create {}: {error}", folder.display()))?;
        let made = Throwaway { ca: folder.join("ca.pem"), cert: folder.join("node.pem"), key: folder.join("node.key") };
        write(&made.ca, &authority_certificate.pem(), 0o644)?;
        write(&made.cert, &certificate.pem(), 0o644)?;
        write(&made.key, &key.serialize_pem(), 0o600)?;
        Ok(made)
    }

    /// As the files of a port where everybody must have a certificate, or nobody.
    pub fn files(&self, client_auth: bool) -> TlsFiles {
        TlsFiles { cert: self.cert.clone(), key: self.key.clone(), trusted_ca: Some(self.ca.clone()), client_auth }
    }
}

fn write(path: &Path, text: &str, mode: u32) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("cannot write {}: {error}", path.display());
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(path).map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)
}
