"""The upload service: takes bundles over HTTP, verifies them one by one and publishes those that hold."""
