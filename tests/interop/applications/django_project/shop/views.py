"""The shop's one page."""
from django.http import HttpResponse
from django.urls import path

from .models import Thing


def count(_request):
    return HttpResponse(str(Thing.objects.count()))


urlpatterns = [path("count", count)]
