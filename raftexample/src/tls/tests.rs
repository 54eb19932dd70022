use super::throwaway::Throwaway;
use super::*;

use rcgen::{CertificateParams, KeyPair};

fn made(folder: &Path) -> Throwaway {
    Throwaway::make(folder, &["127.0.0.1", "localhost"]).unwrap()
}

fn fault(files: TlsFiles) -> String {
    let fault = Tls::load(files).err().expect("it is refused").to_string();
    assert_eq!(fault.lines().count(), 1, "{fault}");
    fault
}

#[test]
fn what_a_throwaway_authority_makes_can_be_used() {
    let dir = tempfile::tempdir().unwrap();
    let made = made(dir.path());
    let tls = Tls::load(made.files(true)).unwrap();
    assert!(tls.connector().is_some());
    let tls = Tls::load(TlsFiles { trusted_ca: None, ..made.files(false) }).unwrap();
    assert!(tls.connector().is_none(), "nobody is trusted");
    assert_eq!(fs::metadata(&made.key).unwrap().mode() & 0o777, 0o600);
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (good, strange) = (made(one.path()), made(other.path()));
    let line = fault(TlsFiles { cert: one.path().join("none.pem"), ..good.files(false) });
    assert!(line.contains("none.pem") && line.contains("No such file"), "{line}");
    let line = fault(TlsFiles { key: strange.key.clone(), ..good.files(false) });
    assert!(line.contains("does not belong to"), "{line}");
    let line = fault(TlsFiles { cert: good.key.clone(), ..good.files(false) });
    assert!(line.contains("node.key") && line.contains("there is none in it"), "{line}");
    let line = fault(TlsFiles { key: good.cert.clone(), ..good.files(false) });
    assert!(line.contains("private key") && line.contains("node.pem"), "{line}");
    fs::write(&good.ca, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
    assert!(fault(good.files(true)).contains("ca.pem"));
}

#[test]
fn a_certificate_has_its_time() {
    let dir = tempfile::tempdir().unwrap();
    for (from, to, word) in [(2000, 2001, "has expired"), (4000, 4001, "is not valid yet")] {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["localhost".to_string()]).unwrap();
        params.not_before = rcgen::date_time_ymd(from, 1, 1);
        params.not_after = rcgen::date_time_ymd(to, 1, 1);
        let files = TlsFiles {
            cert: dir.path().join("cert.pem"),
            key: dir.path().join("key.pem"),
            trusted_ca: None,
            client_auth: false,
        };
        fs::write(&files.cert, params.self_signed(&key).unwrap().pem()).unwrap();
        fs::write(&files.key, key.serialize_pem()).unwrap();
        let line = fault(files);
        assert!(line.contains(word) && line.contains("cert.pem"), "{line}");
    }
}
