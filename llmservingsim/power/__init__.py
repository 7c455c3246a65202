"""Energy from what ran: accelerators, CPU, memory, links, NIC, storage."""
