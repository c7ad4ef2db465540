"""What is shown of a request, without a command line or a server: tables, sweeps, figures."""
