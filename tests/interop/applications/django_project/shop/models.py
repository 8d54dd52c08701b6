"""What the shop sells."""
from django.db import models


class Thing(models.Model):
    name = models.CharField(max_length=40, unique=True)
    left = models.IntegerField(default=0)
