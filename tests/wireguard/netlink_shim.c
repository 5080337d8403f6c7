/* Leads a program's generic netlink sockets to a unix socket: LD_PRELOAD=shim.so SHIM_SOCKET=PATH.
 *
 * So the authors' own wg speaks to the tests' double of the kernel. Only what wg does with such a
 * socket is taken over; every other socket stays what it is. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <linux/netlink.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#define PORT 4242 /* what the kernel would have chosen for us */

static unsigned char ours[1024];

static int is_ours(int fd) { return fd >= 0 && fd < (int)sizeof(ours) && ours[fd]; }

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

int socket(int domain, int type, int protocol)
{
	struct sockaddr_un to = { .sun_family = AF_UNIX };
	const char *path = getenv("SHIM_SOCKET");
	int fd;

	if (domain != AF_NETLINK || protocol != NETLINK_GENERIC || !path)
		return REAL(socket)(domain, type, protocol);
	strncpy(to.sun_path, path, sizeof(to.sun_path) - 1);
	fd = REAL(socket)(AF_UNIX, SOCK_SEQPACKET, 0);
	if (fd < 0 || fd >= (int)sizeof(ours) || connect(fd, (struct sockaddr *)&to, sizeof(to)))
		abort();
	ours[fd] = 1;
	return fd;
}

int bind(int fd, const struct sockaddr *address, socklen_t length)
{
	return is_ours(fd) ? 0 : REAL(bind)(fd, address, length);
}

int getsockname(int fd, struct sockaddr *address, socklen_t *length)
{
	struct sockaddr_nl own = { .nl_family = AF_NETLINK, .nl_pid = PORT };

	if (!is_ours(fd))
		return REAL(getsockname)(fd, address, length);
	memcpy(address, &own, sizeof(own));
	*length = sizeof(own);
	return 0;
}

int setsockopt(int fd, int level, int name, const void *value, socklen_t length)
{
	return is_ours(fd) ? 0 : REAL(setsockopt)(fd, level, name, value, length);
}

ssize_t sendto(int fd, const void *data, size_t size, int flags, const struct sockaddr *to,
	       socklen_t length)
{
	if (is_ours(fd))
		return send(fd, data, size, flags | MSG_NOSIGNAL);
	return REAL(sendto)(fd, data, size, flags, to, length);
}

ssize_t recvmsg(int fd, struct msghdr *message, int flags)
{
	struct sockaddr_nl from = { .nl_family = AF_NETLINK };
	struct msghdr plain = *message;
	ssize_t size;

	if (!is_ours(fd))
		return REAL(recvmsg)(fd, message, flags);
	plain.msg_name = NULL;
	plain.msg_namelen = 0;
	size = REAL(recvmsg)(fd, &plain, flags);
	message->msg_flags = plain.msg_flags;
	message->msg_controllen = 0;
	if (message->msg_name)
		memcpy(message->msg_name, &from, sizeof(from));
	message->msg_namelen = sizeof(from);
	return size;
}

int close(int fd)
{
	if (is_ours(fd))
		ours[fd] = 0;
	return REAL(close)(fd);
}
