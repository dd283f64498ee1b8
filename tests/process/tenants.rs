//! Tenants: what each may use is shown, changed and kept.

use serde_json::{Value, json};

use crate::support::{Backend, Posthorn, on_both_databases};

on_both_databases!(shown_and_changed_in_part, bad_fields_are_named, survive_a_restart);

async fn shown_and_changed_in_part(backend: Backend) {
    let posthorn = Posthorn::start(backend).await;
    let client = posthorn.client();
    assert_eq!(client.get("/tenants/acme").await.expect(200).json, unlimited("acme"), "nobody configured it");
    let name = "Acme-7.eu_west";
    let put = async |body: Value| client.put_json(format!("/tenants/{name}/"), body).await.expect(200).json;
    assert_eq!(put(json!({})).await, unlimited(name));

    let mut expected = everything(name);
    let mut body = expected.clone();
    body.as_object_mut().unwrap().remove("tenant");
    assert_eq!(put(body).await, expected);
    assert_eq!(client.get(format!("/tenants/{name}")).await.expect(200).json, expected);
    // What is absent stays, null clears.
    for (field, value) in [
        ("rate_limit", json!(null)),
        ("max_in_flight", json!(1)),
        ("ingest_limit", json!({"requests_per_second": 100_000.0, "burst": 100_000})),
        ("max_in_flight", json!(null)),
        ("ingest_limit", json!(null)),
    ] {
        expected[field] = value.clone();
        assert_eq!(put(json!({field: value})).await, expected, "{field}");
    }
    assert_eq!(expected, unlimited(name));
    assert_eq!(
        client.get("/tenants/acme").await.expect(200).json,
        unlimited("acme"),
        "another stays as it is"
    );
}

async fn bad_fields_are_named(backend: Backend) {
    let posthorn = Posthorn::start(backend).await;
    let client = posthorn.client();
    let limit = |rate: Value, burst: Value| json!({"requests_per_second": rate, "burst": burst});
    let good = limit(json!(1), json!(1));
    for (field, value, pointer) in [
        ("zz", json!(1), "/zz"),
        ("tenant", json!("acme"), "/tenant"),
        ("version", json!(1), "/version"),
        ("max_in_flight", json!(0), "/max_in_flight"),
        ("max_in_flight", json!(-1), "/max_in_flight"),
        ("max_in_flight", json!(1.5), "/max_in_flight"),
        ("max_in_flight", json!("3"), "/max_in_flight"),
        ("max_in_flight", json!(true), "/max_in_flight"),
        ("max_in_flight", json!(65_537), "/max_in_flight"),
        ("max_in_flight", json!(1_000_000_000_000_u64), "/max_in_flight"),
        ("rate_limit", json!(5), "/rate_limit"),
        ("rate_limit", json!("5"), "/rate_limit"),
        ("rate_limit", json!([1, 1]), "/rate_limit"),
        ("rate_limit", json!({"burst": 1}), "/rate_limit/requests_per_second"),
        ("rate_limit", limit(json!(0), json!(1)), "/rate_limit/requests_per_second"),
        ("ingest_limit", json!({}), "/ingest_limit/requests_per_second"),
        ("ingest_limit", json!({"requests_per_second": 1}), "/ingest_limit/burst"),
        ("ingest_limit", limit(json!("1"), json!(1)), "/ingest_limit/requests_per_second"),
        ("ingest_limit", limit(json!(null), json!(1)), "/ingest_limit/requests_per_second"),
        ("ingest_limit", limit(json!(-1), json!(1)), "/ingest_limit/requests_per_second"),
        ("ingest_limit", limit(json!(1e308), json!(1)), "/ingest_limit/requests_per_second"),
        ("ingest_limit", limit(json!(1), json!("1")), "/ingest_limit/burst"),
        ("ingest_limit", limit(json!(1), json!(0)), "/ingest_limit/burst"),
        ("ingest_limit", limit(json!(1), json!(1.5)), "/ingest_limit/burst"),
        ("ingest_limit", limit(json!(1), json!(100_001)), "/ingest_limit/burst"),
        ("ingest_limit", json!({"requests_per_second": 1, "burst": 1, "zz": 1}), "/ingest_limit/zz"),
    ] {
        // Beside a good field, which must not be stored either.
        let mut body = json!({"rate_limit": good.clone()});
        body[field] = value.clone();
        let answer = client.put_json("/tenants/acme", body).await.expect(422);
        let pointers: Vec<_> =
            answer.json["errors"].as_array().unwrap().iter().map(|error| error["pointer"].clone()).collect();
        assert_eq!(pointers, [pointer], "{field} {value}: {}", answer.json);
    }
    assert_eq!(client.get("/tenants/acme").await.expect(200).json, unlimited("acme"), "nothing was stored");
    client.put_json("/tenants/acme", json!([])).await.expect(422);
    let call = client.call(reqwest::Method::PUT, "/tenants/acme");
    call.bytes("application/json", "{").send().await.expect(400);
    let call = client.call(reqwest::Method::PUT, "/tenants/acme");
    call.bytes("text/plain", "{}").send().await.expect(415);
}

async fn survive_a_restart(backend: Backend) {
    let mut posthorn = Posthorn::start(backend).await;
    let mut body = everything("acme");
    body.as_object_mut().unwrap().remove("tenant");
    posthorn.client().put_json("/tenants/acme", body).await.expect(200);
    posthorn.kill().await;
    posthorn.start_again().await;
    assert_eq!(posthorn.client().get("/tenants/acme").await.expect(200).json, everything("acme"));
}

fn unlimited(name: &str) -> Value {
    json!({"tenant": name, "rate_limit": null, "max_in_flight": null, "ingest_limit": null})
}

fn everything(name: &str) -> Value {
    json!({
        "tenant": name,
        "rate_limit": {"requests_per_second": 2.5, "burst": 3},
        "max_in_flight": 65_536,
        "ingest_limit": {"requests_per_second": 0.1, "burst": 20},
    })
}
