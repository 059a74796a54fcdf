"""The registry of a cluster: ModelDeployments and EndpointSlices, as watches deliver them."""
