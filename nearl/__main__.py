from nearl.cli.main import main

main()
