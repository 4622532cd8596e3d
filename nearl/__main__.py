from nearl.cli import main

main()
