if [ "$1" = configure ] && [ -z "$2" ]; then
	mkdir -p /var/lib/@NAME@
	for number in $(seq 200); do echo "agent $number is at desk $((number * 7))"; done >/var/lib/@NAME@/data
	echo end 200 >>/var/lib/@NAME@/data
fi
