//! TLS against a server with an authority of its own; needs the program `openssl`, and says so when it is not there.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use reveille::config::Database;
use reveille::error::Kind;
use reveille::postgres::Server;
use reveille::postgres::embedded::Throwaway;

use super::{QUICK, refused};
use crate::support::{database_at, lacking, own_server, quiet_options};

/// A server that speaks TLS as `localhost`, and the certificate of the authority behind it.
struct Secured {
    server: Throwaway,
    authority: PathBuf,
    stranger: PathBuf,
}

impl Secured {
    /// None without `openssl`, which is told.
    async fn start() -> Option<Self> {
        if Command::new("openssl").arg("version").stdout(Stdio::null()).status().is_err() {
            lacking("the program `openssl` is not installed");
            return None;
        }
        let server = own_server(quiet_options()).await;
        let folder = server.data_dir();
        for name in ["authority", "stranger"] {
            openssl(
                &folder,
                &format!(
                    "req -x509 -newkey rsa:2048 -nodes -days 2 -keyout {name}.key -out {name}.pem -subj /CN={name}"
                ),
            );
        }
        openssl(
            &folder,
            "req -newkey rsa:2048 -nodes -keyout server.key -out server.csr -subj /CN=localhost",
        );
        fs::write(folder.join("names"), "subjectAltName=DNS:localhost\n").unwrap();
        openssl(
            &folder,
            "x509 -req -in server.csr -CA authority.pem -CAkey authority.key -CAcreateserial -days 2 -extfile names -out server.crt",
        );
        let owner = fs::metadata(&folder).unwrap();
        for name in ["server.key", "server.crt"] {
            let path = folder.join(name);
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            chown(&path, Some(owner.uid()), Some(owner.gid())).unwrap();
        }
        server.stop().await.unwrap();
        server.start_with(vec![("ssl".to_owned(), "on".to_owned())]).await.unwrap();
        Some(Self { authority: folder.join("authority.pem"), stranger: folder.join("stranger.pem"), server })
    }

    fn settings(&self, host: &str, query: &str, root: Option<&Path>) -> Database {
        let url = self.server.url("postgres").replacen("@127.0.0.1:", &format!("@{host}:"), 1);
        let url = format!("{url}?hostaddr=127.0.0.1&{query}");
        let tls_root_cert = root.map(|path| path.display().to_string()).unwrap_or_default();
        Database { tls_root_cert, ..database_at(&url) }
    }
}

fn openssl(folder: &Path, arguments: &str) {
    let output = Command::new("openssl").args(arguments.split(' ')).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn the_server_proves_as_much_as_sslmode_asks() {
    let Some(secured) = Secured::start().await else { return };
    let root = Some(secured.authority.as_path());
    let good = [
        ("localhost", "sslmode=verify-full", root),
        ("elsewhere", "sslmode=verify-ca", root),
        ("localhost", "", root),
        ("elsewhere", "sslmode=require", None),
        ("elsewhere", "sslmode=prefer", None),
        ("localhost", &format!("sslrootcert={}", secured.authority.display()), None),
    ];
    for (host, query, root) in good {
        let server = Server::from_settings(&secured.settings(host, query, root)).unwrap();
        let client =
            server.client("test", &QUICK).await.unwrap_or_else(|error| panic!("{host} {query}: {error}"));
        let is_tls = "select ssl from pg_stat_ssl where pid = pg_backend_pid()";
        assert!(client.query_one(is_tls, &[]).await.unwrap().get::<_, bool>(0), "{host} {query}");
    }
    let bad = [
        ("elsewhere", "sslmode=verify-full", root),
        ("elsewhere", "", root),
        ("localhost", "sslmode=verify-ca", Some(secured.stranger.as_path())),
        ("localhost", "sslmode=require", Some(secured.stranger.as_path())),
        ("localhost", "sslmode=verify-full", None),
    ];
    for (host, query, root) in bad {
        let error = refused(&secured.settings(host, query, root)).await;
        assert_eq!(error.kind(), Kind::Denied, "{host} {query}: {error}");
        assert!(error.hint_text().unwrap().contains("tls_root_cert"), "{error}");
    }
}

#[tokio::test]
async fn a_root_certificate_that_cannot_be_used_is_named() {
    for (file, text) in [("/nowhere/ca.pem", "cannot be used"), ("/dev/null", "holds no certificate")] {
        let settings = Database { tls_root_cert: file.to_owned(), ..database_at("postgres://h/d") };
        let error = Server::from_settings(&settings).unwrap_err();
        assert_eq!(error.kind(), Kind::Usage);
        assert!(error.to_string().contains(file) && error.to_string().contains(text), "{error}");
    }
}
