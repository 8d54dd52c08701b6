"""Each of Django's kinds of test: in a transaction, without one, with a server in a thread."""
import urllib.request

from django.db import IntegrityError, connection, transaction
from django.test import LiveServerTestCase, TestCase, TransactionTestCase

from .models import Thing


class InTransaction(TestCase):
    @classmethod
    def setUpTestData(cls):
        Thing.objects.bulk_create(Thing(name=f"thing {n}", left=n) for n in range(100))

    def test_is_undone(self):
        for n in range(20):
            with self.subTest(n=n):
                self.assertEqual(Thing.objects.filter(left__gte=n).count(), 100 - n)
        with self.assertRaises(IntegrityError), transaction.atomic():
            Thing.objects.create(name="thing 1")
        self.assertEqual(Thing.objects.count(), 100)

    def test_callbacks(self):
        called = []
        with self.captureOnCommitCallbacks(execute=True):
            transaction.on_commit(lambda: called.append(Thing.objects.count()))
        self.assertEqual(called, [100])


class AnotherInTransaction(InTransaction):
    """For the second process."""


class WithoutTransaction(TransactionTestCase):
    def test_commits(self):
        with transaction.atomic():
            Thing.objects.create(name="one")
        connection.close()
        self.assertEqual(Thing.objects.get().name, "one")

    def test_begins_empty(self):
        self.assertFalse(Thing.objects.exists())


class WithServer(LiveServerTestCase):
    def test_page(self):
        Thing.objects.create(name="seen from another thread")
        with urllib.request.urlopen(f"{self.live_server_url}/count") as page:
            self.assertEqual(page.read(), b"1")
