"""Django with connections that it keeps, and server-side cursors."""
import sys

import django
from django.conf import settings

from clients import run_at_once

settings.configure(
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": "postgres",
            "USER": "postgres",
            "HOST": sys.argv[1],
            "PORT": sys.argv[2],
            "CONN_MAX_AGE": None,
            "OPTIONS": {"server_side_binding": True},
        }
    },
    TIME_ZONE="Europe/Berlin",
    USE_TZ=True,
)
django.setup()

from django.db import connection, models, transaction  # noqa: E402


class Thing(models.Model):
    client = models.IntegerField()
    turn = models.IntegerField()

    class Meta:
        app_label = "interop"


def client(number, said):
    try:
        for turn in range(30):
            Thing.objects.create(client=number, turn=turn)
            try:
                with transaction.atomic():
                    Thing.objects.create(client=number, turn=-1)
                    with transaction.atomic():
                        Thing.objects.create(client=number, turn=-2)
                    raise ValueError
            except ValueError:
                pass
            said.append(list(Thing.objects.filter(client=number).order_by("-turn").values_list("turn", flat=True)[:2]))
            with connection.cursor() as cursor:
                cursor.execute("select current_setting('timezone')")
                said.append(cursor.fetchone())
        with transaction.atomic():
            said.append(sum(thing.turn for thing in Thing.objects.filter(client=number).iterator(chunk_size=7)))
        Thing.objects.bulk_create([Thing(client=number, turn=turn) for turn in range(1000, 3000)])
        said.append(Thing.objects.filter(client=number).count())
    finally:
        connection.close()


with connection.schema_editor() as editor:
    with connection.cursor() as cursor:
        cursor.execute("drop table if exists interop_thing")
    editor.create_model(Thing)
run_at_once(6, client)
