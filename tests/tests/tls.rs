//! TLS from outside: between peers, for clients, with files that change, and with those that cannot be used. Clients are
//! curl, so that somebody else's TLS is on the other side.
#![forbid(unsafe_code)]

use std::path::Path;
use std::process::Command;

use raftexample::tls::throwaway::Throwaway;
use tests::cluster::{
    eventually, free_base_port, free_port, process_is_alive, raftexample, Cluster, Http, Node, Process, Signal,
    PATIENCE,
};

/// A CA and a certificate for this machine, in a folder below this one.
fn certificates(folder: &Path, name: &str) -> Throwaway {
    Throwaway::make(&folder.join(name), &["127.0.0.1", "localhost"]).expect("certificates")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path that is text")
}

/// What peers need that ask each other for certificates.
fn peer_flags(files: &Throwaway) -> [&str; 7] {
    let (cert, key, ca) = (text(&files.cert), text(&files.key), text(&files.ca));
    ["--peer-client-cert-auth", "--peer-cert-file", cert, "--peer-key-file", key, "--peer-trusted-ca-file", ca]
}

/// The status code, or curl's own exit code if there was no answer.
fn curl(arguments: &[&str]) -> Result<(u16, String), i32> {
    let output = Command::new("curl").args(["-s", "-m", "20", "-w", "\n%{http_code}"]).args(arguments).output();
    let output = output.expect("curl is installed");
    if !output.status.success() {
        return Err(output.status.code().unwrap_or(-1));
    }
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (body, code) = text.rsplit_once('\n').expect("a line with the code");
    Ok((code.parse().expect("a code"), body.to_string()))
}

/// One node that serves clients over TLS, and its URL.
fn serving(flags: &[&str], trusting: &[&str]) -> (Cluster, String) {
    let cluster = Cluster::prepare(1, flags);
    let node = cluster.node(1);
    node.start();
    let url = format!("https://127.0.0.1:{}", node.client_port);
    let ready = format!("{url}/_/readyz");
    let asking = [trusting, &[&ready]].concat();
    eventually("the node is ready", PATIENCE, || {
        assert!(node.is_running(), "{:#?}", node.process().stderr());
        curl(&asking).ok().filter(|(code, _)| *code == 200)
    });
    (cluster, url)
}

fn told(node: &Node, words: &str) -> String {
    node.process().wait_for_line(words, PATIENCE, |line| line.contains(words))
}

#[test]
fn peers_speak_tls_and_keep_out_whom_their_ca_does_not_vouch_for() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let ours = certificates(folder.path(), "ours");
    certificates(folder.path(), "strange");
    let mut cluster = Cluster::start_with(3, &peer_flags(&ours));
    cluster.http(1).must_put("/key", vec![7; 1 << 20]);
    for id in 1..=3 {
        assert_eq!(cluster.http(id).must_get("/key").len(), 1 << 20);
    }
    let leader = cluster.wait_for_leader();
    let (stays, leaves) = (cluster.followers_of(leader)[0], cluster.followers_of(leader)[1]);

    // Plain HTTP is answered in plain HTTP, once, and the log says what it was.
    let answer = Http::new(cluster.node(leader).peer_port).get("/raft/probing");
    assert_eq!((answer.status, answer.text().contains("https://")), (400, true), "{}", answer.text());
    told(cluster.node(leader), "speaks plain http");
    let mixed = cluster.http(leader).post("/9", "http://127.0.0.1:1");
    assert!(mixed.status == 409 && mixed.text().contains("must be alike"), "{} {}", mixed.status, mixed.text());

    // The same node with certificates of somebody else.
    cluster.node(leaves).kill();
    let mut arguments = cluster.node(leaves).arguments().to_vec();
    for argument in &mut arguments {
        *argument = argument.replace("/ours/", "/strange/");
    }
    let stranger = Process::start("the stranger", raftexample(), &arguments, folder.path());
    stranger.wait_for_line("that it trusts nobody", PATIENCE, |line| {
        line.contains("became inactive") && line.contains("invalid peer certificate")
    });
    told(cluster.node(leader), "closed the connection of a peer");
    cluster.http(stays).must_put("/without", "the stranger");
    let seen = Http::new(cluster.node(leaves).client_port).get("/_/status").text();
    assert!(seen.contains("\"leader\": 0"), "{seen}");
    stranger.kill();
    cluster.node(leaves).start_and_wait();
    let goal = cluster.node(leader).status().expect("a status").commit;
    cluster.node(leaves).wait_until_applied(goal);

    // A node that was never there joins.
    let joining = cluster.prepare_joining_node();
    assert_eq!(cluster.http(leader).post(format!("/{joining}"), cluster.node(joining).peer_url()).status, 204);
    cluster.node(joining).start_and_wait();
    cluster.node(joining).wait_until_applied(goal);
}

#[test]
fn clients_show_a_certificate_where_one_is_asked_for() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (ours, strange) = (certificates(folder.path(), "ours"), certificates(folder.path(), "strange"));
    let (cert, key, ca) = (text(&ours.cert), text(&ours.key), text(&ours.ca));
    let flags = ["--client-cert-auth", "--cert-file", cert, "--key-file", key, "--trusted-ca-file", ca];
    let with_certificate = ["--cacert", ca, "--cert", cert, "--key", key];
    let (cluster, url) = serving(&flags, &with_certificate);
    let put = format!("{url}/key");
    let put = ["-X", "PUT", "-d", "value", &put];
    assert_eq!(curl(&[&with_certificate[..], &put].concat()), Ok((204, String::new())));
    assert!(curl(&[&["--cacert", ca][..], &put].concat()).is_err(), "no certificate");
    let theirs = ["--cacert", ca, "--cert", text(&strange.cert), "--key", text(&strange.key)];
    assert!(curl(&[&theirs[..], &put].concat()).is_err(), "a certificate of somebody else");
    assert!(curl(&[&["--cacert", text(&strange.ca)][..], &put].concat()).is_err(), "curl does not trust the node");
    let line = told(cluster.node(1), "closed the connection of a client");
    assert!(line.contains("TLS: "), "{line}");
    let metrics = curl(&[&with_certificate[..], &[&format!("{url}/_/metrics")]].concat()).expect("the page").1;
    let count = metrics.lines().find(|line| line.contains("port=\"clients\",reason=\"handshake\""));
    assert!(!count.expect("the count").ends_with(" 0"), "{count:?}");
}

#[test]
fn new_files_are_used_and_bad_ones_are_not() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let first = certificates(folder.path(), "tls");
    let old_ca = folder.path().join("old-ca.pem");
    std::fs::copy(&first.ca, &old_ca).expect("a copy");
    let flags = ["--cert-file", text(&first.cert), "--key-file", text(&first.key)];
    let (cluster, url) = serving(&flags, &["--cacert", text(&first.ca)]);
    let node = cluster.node(1);
    let page = format!("{url}/_/livez");
    let served = |ca: &Path| curl(&["--cacert", text(ca), &page]).is_ok_and(|(code, _)| code == 200);
    assert!(served(&old_ca));

    let second = certificates(folder.path(), "tls");
    assert_eq!(second, first, "the same files, with something else in them");
    eventually("the new certificate is shown", PATIENCE, || served(&second.ca).then_some(()));
    told(node, "new certificate files for clients are in use");
    assert!(!served(&old_ca), "the old one is not");

    std::fs::write(&second.cert, "nonsense").expect("a file");
    let line = told(node, "the former ones stay in use");
    assert!(line.contains("ERROR") && line.contains("node.pem"), "{line}");
    assert!(served(&second.ca));
    certificates(folder.path(), "tls");
    eventually("the third certificate is shown", PATIENCE, || served(&second.ca).then_some(()));
    assert!(node.is_running());
}

/// A copy of these files in another folder, which later changes do not reach.
fn kept(files: &Throwaway, folder: &Path) -> Throwaway {
    std::fs::create_dir(folder).expect("a folder");
    let copy = |file: &Path| {
        let to = folder.join(file.file_name().expect("a file"));
        std::fs::copy(file, &to).expect("a copy");
        to
    };
    Throwaway { ca: copy(&files.ca), cert: copy(&files.cert), key: copy(&files.key) }
}

#[test]
fn peers_go_over_to_a_new_ca_and_new_certificates_while_they_run() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let first = certificates(folder.path(), "ours");
    let cluster = Cluster::start_with(3, &peer_flags(&first));
    cluster.http(1).must_put("/key", "before");
    let leader = cluster.wait_for_leader();
    let (stays, leaves) = (cluster.followers_of(leader)[0], cluster.followers_of(leader)[1]);
    kept(&first, &folder.path().join("old"));
    certificates(folder.path(), "ours");
    for node in cluster.nodes() {
        told(node, "new certificate files for peers are in use");
    }
    // What is open stays open.
    cluster.http(leader).must_put("/key", "after");

    // Whoever still has the old ones is trusted by nobody any more, and trusts nobody.
    cluster.node(leaves).kill();
    cluster.node(leaves).start_with_arguments(|argument| argument.replace("/ours/", "/old/"));
    cluster.node(leaves).process().wait_for_line("that it trusts nobody", PATIENCE, |line| {
        line.contains("became inactive") && line.contains("invalid peer certificate")
    });
    let line = cluster.node(leader).process().wait_for_line("that it is not trusted", PATIENCE, |line| {
        line.contains("closed the connection of a peer") && line.contains("TLS: ")
    });
    assert!(!line.contains("plain http"), "{line}");
    assert_eq!(cluster.node(leaves).status().expect("a status").leader, 0);
    cluster.node(leaves).kill();
    // A node that begins anew connects to all others anew, both ways.
    cluster.node(leaves).start_and_wait();
    cluster.node(leader).kill();
    cluster.wait_for_leader_among(&[stays, leaves]);
    assert_eq!(cluster.http(stays).must_get("/key"), b"after");
    cluster.http(leaves).must_put("/key", "by the new ones alone");
}

#[test]
fn the_ca_of_clients_is_read_anew_when_it_changes() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (server, first, second) = (
        certificates(folder.path(), "server"),
        certificates(folder.path(), "first"),
        certificates(folder.path(), "second"),
    );
    let ca = folder.path().join("clients.pem");
    std::fs::copy(&first.ca, &ca).expect("a copy");
    let files = ["--cert-file", text(&server.cert), "--key-file", text(&server.key)];
    let flags = [&files[..], &["--client-cert-auth", "--trusted-ca-file", text(&ca)]].concat();
    let as_first = ["--cacert", text(&server.ca), "--cert", text(&first.cert), "--key", text(&first.key)];
    let as_second = ["--cacert", text(&server.ca), "--cert", text(&second.cert), "--key", text(&second.key)];
    let (cluster, url) = serving(&flags, &as_first);
    let page = format!("{url}/_/livez");
    let served = |who: &[&str]| curl(&[who, &[&page]].concat()).is_ok_and(|(code, _)| code == 200);
    assert!(served(&as_first) && !served(&as_second));
    // In one step: half a file would be reported, and be harmless.
    let new = folder.path().join("clients.pem.new");
    std::fs::copy(&second.ca, &new).expect("a copy");
    std::fs::rename(&new, &ca).expect("renamed");
    told(cluster.node(1), "new certificate files for clients are in use");
    assert!(served(&as_second) && !served(&as_first));
}

#[test]
fn files_that_cannot_be_used_are_refused_at_the_start() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (ours, strange) = (certificates(folder.path(), "ours"), certificates(folder.path(), "strange"));
    let (cert, key, ca) = (text(&ours.cert), text(&ours.key), text(&ours.ca));
    let missing = folder.path().join("missing.pem");
    let data = folder.path().join("data");
    let refused = |flags: &[&str], words: &[&str]| {
        let port = free_port().to_string();
        let arguments = [&["--port", &port, "--data-dir", text(&data)], flags].concat();
        let process = Process::start("the refused start", raftexample(), &arguments, folder.path());
        let status = process.wait_for_exit(PATIENCE);
        assert!(!status.success());
        let stderr = process.stderr();
        let line = stderr.last().expect("a line");
        assert!(line.starts_with("raftexample: ") && words.iter().all(|word| line.contains(word)), "{flags:?}: {line}");
    };
    refused(&["--cert-file", text(&missing), "--key-file", key], &["clients", "missing.pem", "No such file"]);
    refused(&["--cert-file", cert, "--key-file", text(&strange.key)], &["does not belong to", "strange", "ours"]);
    refused(&["--cert-file", cert, "--key-file", ca], &["private key", "ca.pem"]);
    refused(&["--cert-file", cert], &["--key-file"]);
    let https = ["--cluster", "https://127.0.0.1:1"];
    refused(&https, &["https://127.0.0.1:1", "--peer-cert-file"]);
    let peers = peer_flags(&ours);
    refused(&[&["--cluster", "https://127.0.0.1:1,http://127.0.0.1:2"][..], &peers].concat(), &["either all"]);
    refused(&[&["--cluster", "http://127.0.0.1:1"][..], &peers].concat(), &["http://127.0.0.1:1"]);
    std::fs::write(&ours.ca, "").expect("a file");
    refused(&[&https[..], &peers].concat(), &["peers", "ca.pem", "there is none in it"]);
    assert!(!data.exists(), "a refused start leaves no data behind");
}

#[test]
fn the_demo_makes_its_own_ca_and_says_how_to_use_it() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let base_port = free_base_port(&[0, 1, 10_000, 10_001, 20_000, 20_001]).to_string();
    let mut command = Command::new(raftexample());
    command.args(["demo", "--tls", "--base-port", &base_port]).env_remove("RUST_LOG");
    command.current_dir(folder.path()).env("TMPDIR", folder.path());
    let demo = Process::start_command("the demo", command);
    let told =
        |word: &str| demo.wait_for_line("what to try", PATIENCE, |line| line.contains("curl ") && line.contains(word));
    let (write, ask) = (told("-X PUT"), told("/_/status"));
    let read = demo.wait_for_line("how to read", PATIENCE, |line| line.trim_end().ends_with("/my-key"));
    let run = |command: &str| {
        assert!(command.contains("--cacert ") && command.contains("https://"), "{command}");
        let output = Command::new("bash").args(["-c", &format!("{command} --fail -s")]).output().expect("bash starts");
        assert!(output.status.success(), "{command}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    run(&write);
    assert_eq!(run(&read), "hello");
    let status: serde_json::Value = serde_json::from_str(&run(&ask)).expect("JSON");
    let peers = status["members"].as_array().expect("members");
    assert!(
        peers.iter().all(|member| member["url"].as_str().is_some_and(|url| url.starts_with("https://"))),
        "{status}"
    );
    let node = status["process"].as_u64().expect("a process id") as u32;
    demo.signal(Signal::INT);
    assert!(demo.wait_for_exit(PATIENCE).success());
    eventually("the nodes are gone", PATIENCE, || (!process_is_alive(node)).then_some(()));
    assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 0, "the certificates are gone, too");
}
