//! What the zone answers, name by name.

#![allow(clippy::unwrap_used, reason = "a failed test panics")]

use expect_test::{Expect, expect};
use hickory_proto::rr::{Name, RecordType};
use isopod_dns::zone::{Endpoint, Kind, Lookup, Port, Service, Settings, Zone};
use std::fmt::Write;

fn port(name: &str, protocol: &'static str, port: u16) -> Port {
    Port { name: name.into(), protocol, port }
}

fn zone() -> Zone {
    let zone = Zone::new(Settings {
        domain: "cluster.local".into(),
        ttl: 5,
        service_ip: Some([10, 43, 0, 10].into()),
        reverse: vec!["10.42.0.0/16".parse().unwrap(), "10.43.0.0/16".parse().unwrap()],
    });
    let put = |name: &str, kind: Kind| {
        zone.set_service("shop", name, Some(Service { namespace: "shop".into(), name: name.into(), kind }));
    };
    let ports = vec![port("http", "tcp", 80), port("", "tcp", 81), port("dns", "udp", 53)];
    put("web", Kind::Cluster(vec![[10, 43, 0, 80].into(), "fd43::80".parse().unwrap()], ports));
    let endpoint = |hostname: &str, last: u8| Endpoint {
        hostname: hostname.into(),
        ip: [10, 42, 0, last].into(),
        ports: vec![port("peer", "tcp", 7000)],
    };
    put("db", Kind::Headless(vec![endpoint("db-0", 5), endpoint("db-1", 6), endpoint("10-42-0-7", 7)]));
    put("empty", Kind::Headless(vec![]));
    put("away", Kind::External("example.org".into()));
    zone.set_namespace("bare", true);
    zone
}

/// Looks names up, each with a type after a space, and writes down what comes.
fn check(questions: &str, expected: Expect) {
    let zone = zone();
    let mut out = String::new();
    for question in questions.split_terminator('\n').map(str::trim).filter(|q| !q.is_empty()) {
        let (name, wanted) = question.split_once(' ').unwrap();
        let name = Name::from_ascii(format!("{name}.")).unwrap();
        writeln!(out, "{question}").unwrap();
        match zone.lookup(&name, wanted.parse::<RecordType>().unwrap(), 0) {
            Lookup::NotOurs => out.push_str("  not ours\n"),
            Lookup::NoName => out.push_str("  no such name\n"),
            Lookup::NoData => out.push_str("  no data\n"),
            Lookup::Alias(record, target) => writeln!(out, "  {record} -> {target}").unwrap(),
            Lookup::Records(answers, additionals) => {
                answers.iter().for_each(|record| writeln!(out, "  {record}").unwrap());
                additionals.iter().for_each(|record| writeln!(out, "  + {record}").unwrap());
            }
        }
    }
    expected.assert_eq(&out);
}

#[test]
fn services_with_cluster_ips() {
    check(
        "web.shop.svc.cluster.local A
        WEB.Shop.svc.CLUSTER.local A
        web.shop.svc.cluster.local AAAA
        web.shop.svc.cluster.local MX
        web.shop.svc.cluster.local SRV
        _http._tcp.web.shop.svc.cluster.local SRV
        _http._tcp.web.shop.svc.cluster.local A
        _http._udp.web.shop.svc.cluster.local SRV
        _tcp.web.shop.svc.cluster.local A
        _sctp.web.shop.svc.cluster.local A
        pod.web.shop.svc.cluster.local A
        other.shop.svc.cluster.local A
        web.other.svc.cluster.local A
        80.0.43.10.in-addr.arpa PTR
        80.0.43.10.in-addr.arpa A",
        expect![[r#"
            web.shop.svc.cluster.local A
              web.shop.svc.cluster.local. 5 IN A 10.43.0.80
            WEB.Shop.svc.CLUSTER.local A
              WEB.Shop.svc.CLUSTER.local. 5 IN A 10.43.0.80
            web.shop.svc.cluster.local AAAA
              web.shop.svc.cluster.local. 5 IN AAAA fd43::80
            web.shop.svc.cluster.local MX
              no data
            web.shop.svc.cluster.local SRV
              web.shop.svc.cluster.local. 5 IN SRV 0 33 53 web.shop.svc.cluster.local.
              web.shop.svc.cluster.local. 5 IN SRV 0 33 80 web.shop.svc.cluster.local.
              web.shop.svc.cluster.local. 5 IN SRV 0 33 81 web.shop.svc.cluster.local.
              + web.shop.svc.cluster.local. 5 IN A 10.43.0.80
              + web.shop.svc.cluster.local. 5 IN AAAA fd43::80
            _http._tcp.web.shop.svc.cluster.local SRV
              _http._tcp.web.shop.svc.cluster.local. 5 IN SRV 0 100 80 web.shop.svc.cluster.local.
              + web.shop.svc.cluster.local. 5 IN A 10.43.0.80
              + web.shop.svc.cluster.local. 5 IN AAAA fd43::80
            _http._tcp.web.shop.svc.cluster.local A
              no data
            _http._udp.web.shop.svc.cluster.local SRV
              no such name
            _tcp.web.shop.svc.cluster.local A
              no data
            _sctp.web.shop.svc.cluster.local A
              no such name
            pod.web.shop.svc.cluster.local A
              no such name
            other.shop.svc.cluster.local A
              no such name
            web.other.svc.cluster.local A
              no such name
            80.0.43.10.in-addr.arpa PTR
              80.0.43.10.in-addr.arpa. 5 IN PTR web.shop.svc.cluster.local.
            80.0.43.10.in-addr.arpa A
              no data
        "#]],
    );
}

#[test]
fn headless_services() {
    check(
        "db.shop.svc.cluster.local A
        db.shop.svc.cluster.local AAAA
        db-1.db.shop.svc.cluster.local A
        10-42-0-7.db.shop.svc.cluster.local A
        db-9.db.shop.svc.cluster.local A
        _peer._tcp.db.shop.svc.cluster.local SRV
        empty.shop.svc.cluster.local A
        5.0.42.10.in-addr.arpa PTR
        9.0.42.10.in-addr.arpa PTR",
        expect![[r#"
            db.shop.svc.cluster.local A
              db.shop.svc.cluster.local. 5 IN A 10.42.0.5
              db.shop.svc.cluster.local. 5 IN A 10.42.0.6
              db.shop.svc.cluster.local. 5 IN A 10.42.0.7
            db.shop.svc.cluster.local AAAA
              no data
            db-1.db.shop.svc.cluster.local A
              db-1.db.shop.svc.cluster.local. 5 IN A 10.42.0.6
            10-42-0-7.db.shop.svc.cluster.local A
              10-42-0-7.db.shop.svc.cluster.local. 5 IN A 10.42.0.7
            db-9.db.shop.svc.cluster.local A
              no such name
            _peer._tcp.db.shop.svc.cluster.local SRV
              _peer._tcp.db.shop.svc.cluster.local. 5 IN SRV 0 33 7000 10-42-0-7.db.shop.svc.cluster.local.
              _peer._tcp.db.shop.svc.cluster.local. 5 IN SRV 0 33 7000 db-0.db.shop.svc.cluster.local.
              _peer._tcp.db.shop.svc.cluster.local. 5 IN SRV 0 33 7000 db-1.db.shop.svc.cluster.local.
              + 10-42-0-7.db.shop.svc.cluster.local. 5 IN A 10.42.0.7
              + db-0.db.shop.svc.cluster.local. 5 IN A 10.42.0.5
              + db-1.db.shop.svc.cluster.local. 5 IN A 10.42.0.6
            empty.shop.svc.cluster.local A
              no such name
            5.0.42.10.in-addr.arpa PTR
              5.0.42.10.in-addr.arpa. 5 IN PTR db-0.db.shop.svc.cluster.local.
            9.0.42.10.in-addr.arpa PTR
              no such name
        "#]],
    );
}

#[test]
fn everything_else() {
    check(
        "cluster.local SOA
        cluster.local NS
        cluster.local A
        dns-version.cluster.local TXT
        ns.dns.cluster.local A
        svc.cluster.local A
        shop.svc.cluster.local A
        bare.svc.cluster.local A
        none.svc.cluster.local A
        foo.cluster.local A
        away.shop.svc.cluster.local A
        x.away.shop.svc.cluster.local A
        10-42-0-99.shop.pod.cluster.local A
        10-42-0-99.shop.pod.cluster.local AAAA
        fd42--7.bare.pod.cluster.local AAAA
        10-42-0-99.none.pod.cluster.local A
        bogus.shop.pod.cluster.local A
        example.org A
        local A
        1.2.0.192.in-addr.arpa PTR
        43.10.in-addr.arpa PTR
        0.8.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.3.4.d.f.ip6.arpa PTR",
        expect![[r#"
            cluster.local SOA
              cluster.local. 5 IN SOA ns.dns.cluster.local. hostmaster.cluster.local. 5 7200 1800 86400 5
            cluster.local NS
              cluster.local. 5 IN NS ns.dns.cluster.local.
              + ns.dns.cluster.local. 5 IN A 10.43.0.10
            cluster.local A
              no data
            dns-version.cluster.local TXT
              dns-version.cluster.local. 5 IN TXT 1.1.0
            ns.dns.cluster.local A
              ns.dns.cluster.local. 5 IN A 10.43.0.10
            svc.cluster.local A
              no data
            shop.svc.cluster.local A
              no data
            bare.svc.cluster.local A
              no data
            none.svc.cluster.local A
              no such name
            foo.cluster.local A
              no such name
            away.shop.svc.cluster.local A
              away.shop.svc.cluster.local. 5 IN CNAME example.org. -> example.org.
            x.away.shop.svc.cluster.local A
              no such name
            10-42-0-99.shop.pod.cluster.local A
              10-42-0-99.shop.pod.cluster.local. 5 IN A 10.42.0.99
            10-42-0-99.shop.pod.cluster.local AAAA
              no data
            fd42--7.bare.pod.cluster.local AAAA
              fd42--7.bare.pod.cluster.local. 5 IN AAAA fd42::7
            10-42-0-99.none.pod.cluster.local A
              no such name
            bogus.shop.pod.cluster.local A
              no such name
            example.org A
              not ours
            local A
              not ours
            1.2.0.192.in-addr.arpa PTR
              not ours
            43.10.in-addr.arpa PTR
              not ours
            0.8.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.3.4.d.f.ip6.arpa PTR
              0.8.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.3.4.d.f.ip6.arpa. 5 IN PTR web.shop.svc.cluster.local.
        "#]],
    );
}

#[test]
fn addresses_take_turns_and_services_go() {
    let zone = zone();
    let name = Name::from_ascii("db.shop.svc.cluster.local.").unwrap();
    let first = |turn| match zone.lookup(&name, RecordType::A, turn) {
        Lookup::Records(answers, _) => answers[0].data.to_string(),
        other => panic!("{other:?}"),
    };
    assert_eq!(
        [first(0), first(1), first(2), first(3)],
        ["10.42.0.5", "10.42.0.6", "10.42.0.7", "10.42.0.5"]
    );
    zone.set_service("shop", "db", None);
    assert_eq!(zone.lookup(&name, RecordType::A, 0), Lookup::NoName);
    let reverse = Name::from_ascii("5.0.42.10.in-addr.arpa.").unwrap();
    assert_eq!(zone.lookup(&reverse, RecordType::PTR, 0), Lookup::NoName);
}
