"""A cluster: Kubernetes with Knative Serving and Eventing, behind the same port as a laptop.

A deploy flows one way: ``render`` -> ``apply`` -> ``verdict``. All access to the API server is in ``client``;
``adapter`` is the port.
"""
