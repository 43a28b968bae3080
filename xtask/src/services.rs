//! The servers that tests talk to: installed if missing, started on free ports in a temporary folder,
//! stopped when the tests are over.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Where a distribution keeps the PostgreSQL server programs.
const POSTGRES_HOMES: &str = "/usr/lib/postgresql";
/// Where it keeps those of RabbitMQ.
const RABBIT_HOMES: &str = "/usr/lib/rabbitmq/lib";
/// How long a server may take until it answers.
const STARTING: Duration = Duration::from_mins(1);

/// A running set of servers; dropping it stops them and removes their data.
pub(crate) struct Services {
    folder: PathBuf,
    postgres: PathBuf,
    port: u16,
    /// One that lets in everybody, and one that is encrypted and wants a login.
    nats: [Option<Server>; 2],
    rabbit: Option<Server>,
    /// The port on which RabbitMQ is encrypted.
    rabbit_tls: u16,
}

/// A server that ends with us, with the processes that it started.
struct Server {
    child: Child,
    port: u16,
    /// The port of the name server that RabbitMQ brings along.
    names: Option<u16>,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-KILL", "--", &format!("-{}", self.child.id())]).status();
        let _ = self.child.wait();
        if let Some(port) = self.names {
            let _ = quiet("epmd", Command::new("epmd").args(["-port", &port.to_string(), "-kill"]));
        }
    }
}

impl Services {
    /// Installs what is missing and starts everything.
    pub(crate) fn start(_root: &Path) -> Result<Self, String> {
        println!("\n== services");
        let postgres = postgres_home().map_or_else(install_postgres, Ok)?;
        let folder = std::env::temp_dir().join(format!("bridgehead-services-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).map_err(|error| format!("cannot create {}: {error}", folder.display()))?;
        let port = free_port()?;
        let mut services = Self { folder, postgres, port, nats: [None, None], rabbit: None, rabbit_tls: free_port()? };
        services.start_postgres()?;
        println!("PostgreSQL with wal_level=logical on port {port}");
        let (nats, closed) = (services.start_nats(false)?, services.start_nats(true)?);
        println!("NATS with JetStream on port {}, encrypted on port {}", nats.port, closed.port);
        services.nats = [Some(nats), Some(closed)];
        let rabbit = services.start_rabbit()?;
        println!("RabbitMQ on port {}, encrypted on port {}", rabbit.port, services.rabbit_tls);
        services.rabbit = Some(rabbit);
        Ok(services)
    }

    /// Returns where tests find the servers.
    pub(crate) fn environment(&self) -> [(&'static str, String); 6] {
        let port = |server: &Option<Server>| server.as_ref().map_or(0, |server| server.port);
        [
            ("BRIDGEHEAD_TEST_NATS", format!("nats://127.0.0.1:{}", port(&self.nats[0]))),
            ("BRIDGEHEAD_TEST_NATS_TLS", format!("tls://localhost:{}", port(&self.nats[1]))),
            ("BRIDGEHEAD_TEST_RABBITMQ_TLS", format!("amqps://localhost:{}/%2f", self.rabbit_tls)),
            ("BRIDGEHEAD_TEST_RABBITMQ", format!("amqp://127.0.0.1:{}/%2f", port(&self.rabbit))),
            ("BRIDGEHEAD_TEST_POSTGRES", format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)),
            ("BRIDGEHEAD_TEST_CA", self.certificate().display().to_string()),
        ]
    }

    fn certificate(&self) -> PathBuf {
        self.folder.join("server.crt")
    }

    fn key(&self) -> PathBuf {
        self.folder.join("server.key")
    }

    /// Makes a certificate that vouches for itself, for encrypted connections.
    fn make_certificate(&self) -> Result<(), String> {
        if !Command::new("openssl").arg("version").output().is_ok_and(|output| output.status.success()) {
            install(&["openssl"])?;
        }
        let mut command = Command::new("openssl");
        command.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", "-subj", "/CN=localhost"]);
        command.args(["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]);
        command.args(["-addext", "basicConstraints=critical,CA:FALSE"]);
        command.arg("-keyout").arg(self.key()).arg("-out").arg(self.certificate()).stderr(Stdio::null());
        let status = command.status().map_err(|error| format!("openssl: {error}"))?;
        if status.success() { Ok(()) } else { Err(format!("openssl could not make a certificate ({status})")) }
    }

    /// A PostgreSQL program; as root it runs under the distribution's own account, which alone it accepts.
    fn postgres_tool(&self, tool: &str) -> Command {
        let program = self.postgres.join(tool);
        if is_root() {
            let mut command = Command::new("setpriv");
            command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]).arg(program);
            command
        } else {
            Command::new(program)
        }
    }

    fn start_nats(&self, closed: bool) -> Result<Server, String> {
        if !Path::new("/usr/sbin/nats-server").exists() {
            install(&["nats-server"])?;
        }
        let port = free_port()?;
        let mut command = Command::new("/usr/sbin/nats-server");
        let name = if closed { "nats-closed" } else { "nats" };
        command.args(["-a", "127.0.0.1", "-p", &port.to_string(), "-js", "-sd"]).arg(self.folder.join(name));
        if closed {
            command.args(["--user", "bridgehead", "--pass", "a secret", "--tls", "--tlscert"]).arg(self.certificate());
            command.arg("--tlskey").arg(self.key());
        }
        self.serve(name, &mut command, port, None)
    }

    fn start_rabbit(&self) -> Result<Server, String> {
        let home = || newest(Path::new(RABBIT_HOMES), "sbin/rabbitmq-server");
        if home().is_none() {
            install(&["rabbitmq-server"])?;
        }
        let program = home().ok_or("rabbitmq-server was installed and is not there")?;
        let (port, nodes, names) = (free_port()?, free_port()?, free_port()?);
        let folder = self.folder.join("rabbitmq");
        fs::create_dir_all(&folder).map_err(|error| format!("cannot create {}: {error}", folder.display()))?;
        let settings = folder.join("rabbitmq.conf");
        let (certificate, key) = (self.certificate(), self.key());
        let text = format!(
            "listeners.ssl.1 = 127.0.0.1:{}\nssl_options.certfile = {}\nssl_options.keyfile = {}\nssl_options.cacertfile = {}\n",
            self.rabbit_tls,
            certificate.display(),
            key.display(),
            certificate.display()
        );
        fs::write(&settings, text).map_err(|error| format!("{}: {error}", settings.display()))?;
        let mut command = Command::new(program);
        command
            .env("HOME", &folder)
            .env("RABBITMQ_NODENAME", format!("bridgehead_{}@localhost", std::process::id()))
            .env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_NODE_PORT", port.to_string())
            .env("RABBITMQ_DIST_PORT", nodes.to_string())
            .env("ERL_EPMD_PORT", names.to_string())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_CONFIG_FILE", &settings)
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", folder.join("plugins"))
            .env("RABBITMQ_PID_FILE", folder.join("pid"))
            .env("RABBITMQ_MNESIA_BASE", folder.join("data"))
            .env("RABBITMQ_LOG_BASE", folder.join("log"))
            .env("RABBITMQ_GENERATED_CONFIG_DIR", folder.join("config"));
        self.serve("rabbitmq", &mut command, port, Some(names))
    }

    /// Starts a server and waits until it listens.
    fn serve(&self, name: &str, command: &mut Command, port: u16, names: Option<u16>) -> Result<Server, String> {
        let log = self.folder.join(format!("{name}.log"));
        let output = fs::File::create(&log).map_err(|error| format!("cannot create {}: {error}", log.display()))?;
        let errors = output.try_clone().map_err(|error| format!("{}: {error}", log.display()))?;
        command.stdin(Stdio::null()).stdout(output).stderr(errors).process_group(0);
        let child = command.spawn().map_err(|error| format!("{name}: {error}"))?;
        let mut server = Server { child, port, names };
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            let ended = server.child.try_wait().ok().flatten();
            if ended.is_some() || begun.elapsed() > STARTING {
                let said = fs::read_to_string(&log).unwrap_or_default();
                return Err(format!("{name} does not listen on port {port}:\n{said}"));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(server)
    }

    fn start_postgres(&self) -> Result<(), String> {
        let data = self.folder.join("postgres");
        self.make_certificate()?;
        if is_root() {
            quiet("chown", Command::new("chown").args(["-R", "postgres:"]).arg(&self.folder))?;
        }
        quiet(
            "initdb",
            self.postgres_tool("initdb")
                .args(["--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C"])
                .arg("-D")
                .arg(&data),
        )?;
        // One account has to know its password; whoever comes first in this file counts.
        let access = data.join("pg_hba.conf");
        let others = fs::read_to_string(&access).map_err(|error| format!("{}: {error}", access.display()))?;
        fs::write(&access, format!("host all with_password all scram-sha-256\n{others}"))
            .map_err(|error| format!("{}: {error}", access.display()))?;
        let options = format!(
            "-c port={} -c listen_addresses=127.0.0.1 -c unix_socket_directories={} -c wal_level=logical -c fsync=off \
             -c max_connections=200 -c max_wal_senders=40 -c max_replication_slots=40 -c ssl=on -c ssl_cert_file={} -c ssl_key_file={}",
            self.port,
            self.folder.display(),
            self.certificate().display(),
            self.key().display()
        );
        let log = self.folder.join("postgres.log");
        quiet(
            "pg_ctl start",
            self.postgres_tool("pg_ctl").arg("-D").arg(&data).arg("-l").arg(&log).args(["-w", "-o", &options, "start"]),
        )
        .map_err(|error| format!("{error}\n{}", fs::read_to_string(&log).unwrap_or_default()))
    }
}

impl Drop for Services {
    fn drop(&mut self) {
        (self.nats, self.rabbit) = ([None, None], None);
        let data = self.folder.join("postgres");
        let _ =
            quiet("pg_ctl stop", self.postgres_tool("pg_ctl").arg("-D").arg(&data).args(["-m", "immediate", "stop"]));
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Runs a program silently; its output is shown only when it fails.
pub(crate) fn quiet(title: &str, command: &mut Command) -> Result<(), String> {
    // The server inherits the streams, so they must not be pipes that we would wait for.
    let status = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::inherit())
        .status()
        .map_err(|error| format!("{title}: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("{title} failed ({status})")) }
}

/// Installs packages of the distribution.
pub(crate) fn install(packages: &[&str]) -> Result<(), String> {
    println!("installing {}", packages.join(", "));
    quiet("apt-get update", Command::new("apt-get").args(["-qq", "update"]))?;
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive").args(["-qq", "install", "-y"]).args(packages);
    quiet(&format!("apt-get install {}", packages.join(" ")), &mut command)
}

fn is_root() -> bool {
    Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout.starts_with(b"0\n"))
}

fn free_port() -> Result<u16, String> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(|error| format!("no free port: {error}"))?;
    Ok(listener.local_addr().map_err(|error| error.to_string())?.port())
}

/// Returns the folder of the newest installed PostgreSQL server's programs.
fn postgres_home() -> Option<PathBuf> {
    let mut homes: Vec<(u32, PathBuf)> = fs::read_dir(POSTGRES_HOMES)
        .ok()?
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let version = path.file_name()?.to_str()?.parse().ok()?;
            let programs = path.join("bin");
            programs.join("initdb").exists().then_some((version, programs))
        })
        .collect();
    homes.sort();
    homes.pop().map(|(_, home)| home)
}

/// Finds a program in the folder of its newest version.
fn newest(homes: &Path, program: &str) -> Option<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(homes).ok()?.filter_map(|entry| Some(entry.ok()?.path())).collect();
    found.sort();
    found.into_iter().rev().map(|home| home.join(program)).find(|program| program.exists())
}

fn install_postgres() -> Result<PathBuf, String> {
    install(&["postgresql"])?;
    postgres_home().ok_or_else(|| "PostgreSQL was installed but its server is not where it should be".to_owned())
}
