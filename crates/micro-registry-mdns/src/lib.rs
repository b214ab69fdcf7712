//! Service discovery by multicast DNS (DNS-SD) for micro
