"""A client made by openapi-python-client against a running server: what its types promise is what comes, and what
an endpoint gets verifies with the Standard Webhooks library for Python.

Run by scripts/test-clients, which sets POSTHORN_URL and POSTHORN_API_KEY.
"""

import json
import os
import threading
import time
import unittest
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from uuid import UUID

from posthorn_client import AuthenticatedClient
from posthorn_client.api.deliveries import list_deliveries
from posthorn_client.api.ingest import ingest_event
from posthorn_client.api.status import get_delivery_status
from posthorn_client.api.subscriptions import (
    create_subscription,
    delete_subscription,
    get_subscription,
    rotate_signing_secret,
    update_subscription,
)
from posthorn_client.api.tenants import get_tenant, update_tenant
from posthorn_client.models import (
    AcceptedDelivery,
    CreatedSubscription,
    DeliveryPage,
    DeliveryState,
    DeliveryStatus,
    Problem,
    RateLimit,
    SigningSecret,
    Subscription,
    SubscriptionCreate,
    SubscriptionUpdate,
    Tenant,
    TenantUpdate,
)
from standardwebhooks import Webhook, WebhookVerificationError

CLIENT = AuthenticatedClient(
    base_url=os.environ["POSTHORN_URL"],
    token=os.environ["POSTHORN_API_KEY"],
    raise_on_unexpected_status=True,
)


class GeneratedClient(unittest.TestCase):
    def test_a_subscription_lives_delivers_and_goes(self) -> None:
        receiver = Receiver()
        self.addCleanup(receiver.close)

        subscription = create_subscription.sync(
            client=CLIENT,
            body=SubscriptionCreate(target_url=receiver.url, description="made by a generated client"),
        )
        assert isinstance(subscription, CreatedSubscription), subscription
        self.assertEqual(subscription.description, "made by a generated client")

        cleared = update_subscription.sync(subscription.id, client=CLIENT, body=SubscriptionUpdate(description=None))
        assert isinstance(cleared, Subscription), cleared
        self.assertIsNone(cleared.description)
        self.assertEqual(cleared.target_url, receiver.url, "what is absent stays")

        payload = {"order": 4711, "lines": [{"sku": "föö", "price": 1.5}], "note": None}
        accepted = ingest_event.sync(subscription.id, client=CLIENT, body=payload)
        assert isinstance(accepted, AcceptedDelivery), accepted

        outcome = self.until_success(accepted.delivery_id)
        self.assertEqual(outcome.attempts[-1].status_code, 204)
        assert outcome.delivery.completed_at is not None
        self.assertGreaterEqual(outcome.delivery.completed_at, outcome.delivery.created_at)
        self.assertEqual([json.loads(each.body) for each in receiver.received], [payload])

        page = list_deliveries.sync(
            subscription.id,
            client=CLIENT,
            status=DeliveryState.SUCCESS,
            since=datetime.now(UTC) - timedelta(minutes=1),
        )
        assert isinstance(page, DeliveryPage), page
        self.assertEqual([item.id for item in page.items], [accepted.delivery_id])
        self.assertIsNone(page.next_cursor)

        deleted = delete_subscription.sync_detailed(subscription.id, client=CLIENT)
        self.assertEqual(deleted.status_code, 204)

        gone = get_subscription.sync_detailed(subscription.id, client=CLIENT)
        assert isinstance(gone.parsed, Problem), gone
        self.assertEqual((gone.status_code, gone.parsed.status), (404, 404))
        self.assertRegex(gone.parsed.type_, "^/problems/")
        self.assertEqual(gone.headers["content-type"], "application/problem+json")

    def test_what_is_received_verifies_with_the_library_of_standard_webhooks(self) -> None:
        receiver = Receiver()
        self.addCleanup(receiver.close)
        subscription = create_subscription.sync(client=CLIENT, body=SubscriptionCreate(target_url=receiver.url))
        assert isinstance(subscription, CreatedSubscription), subscription

        before = self.received_for({"price": "5 €"}, subscription.id, receiver)
        old = subscription.signing_secret
        self.assertEqual(Webhook(old).verify(before.body, before.headers), {"price": "5 €"})
        self.assert_refuses(old, '{"price":"6 €"}'.encode(), before.headers)
        self.assert_refuses(f"whsec_{'A' * 43}=", before.body, before.headers)

        rotated = rotate_signing_secret.sync(subscription.id, client=CLIENT)
        assert isinstance(rotated, SigningSecret), rotated
        during = self.received_for({"price": None}, subscription.id, receiver)
        for secret in (old, rotated.signing_secret):
            self.assertEqual(Webhook(secret).verify(during.body, during.headers), {"price": None})
            self.assert_refuses(secret, before.body, during.headers)
        self.assert_refuses(rotated.signing_secret, before.body, before.headers)

    def test_a_tenants_limit_is_set_and_cleared(self) -> None:
        limit = RateLimit(requests_per_second=0.5, burst=3)
        limited = update_tenant.sync("generated", client=CLIENT, body=TenantUpdate(ingest_limit=limit, max_in_flight=7))
        assert isinstance(limited, Tenant), limited
        expected = Tenant(
            tenant="generated",
            rate_limit=None,
            max_in_flight=7,
            ingest_limit=limit,
            control_limit=None,
            max_subscriptions=None,
            max_stored_bytes=None,
        )
        self.assertEqual(limited, expected)

        cleared = update_tenant.sync("generated", client=CLIENT, body=TenantUpdate(ingest_limit=None))
        assert isinstance(cleared, Tenant), cleared
        self.assertEqual((cleared.max_in_flight, cleared.ingest_limit), (7, None), "what is absent stays")
        self.assertEqual(get_tenant.sync("generated", client=CLIENT), cleared)

    def test_a_problem_names_the_field_at_fault(self) -> None:
        problem = create_subscription.sync(client=CLIENT, body=SubscriptionCreate(target_url="ftp://example.com/"))
        assert isinstance(problem, Problem) and problem.errors, problem
        self.assertEqual([field.pointer for field in problem.errors], ["/target_url"])

    def assert_refuses(self, secret: str, body: bytes, headers: dict[str, str]) -> None:
        with self.assertRaises(WebhookVerificationError):
            Webhook(secret).verify(body, headers)

    def received_for(self, event: object, subscription_id: UUID, receiver: "Receiver") -> "Received":
        accepted = ingest_event.sync(subscription_id, client=CLIENT, body=event)
        assert isinstance(accepted, AcceptedDelivery), accepted
        self.until_success(accepted.delivery_id)
        return receiver.received[-1]

    def until_success(self, delivery_id: UUID) -> DeliveryStatus:
        deadline = time.monotonic() + 10
        while True:
            status = get_delivery_status.sync(delivery_id, client=CLIENT)
            assert isinstance(status, DeliveryStatus), status
            if status.delivery.status is DeliveryState.SUCCESS:
                return status
            self.assertLess(time.monotonic(), deadline, f"still {status.delivery.status}")
            time.sleep(0.05)


@dataclass
class Received:
    headers: dict[str, str]
    body: bytes


class Receiver:
    """An endpoint that keeps what it is sent and answers 204."""

    def __init__(self) -> None:
        self.received: list[Received] = []
        received = self.received

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                received.append(Received(dict(self.headers.items()), body))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


if __name__ == "__main__":
    unittest.main()
