import org.apache.activemq.artemis.core.config.impl.SecurityConfiguration;
import org.apache.activemq.artemis.core.server.embedded.EmbeddedActiveMQ;
import org.apache.activemq.artemis.spi.core.security.ActiveMQJAASSecurityManager;
import org.apache.activemq.artemis.spi.core.security.jaas.InVMLoginModule;

/** Runs the broker that broker.xml on the class path describes; the arguments are a user and a password, or nothing. */
public class RunArtemis {
    public static void main(String[] arguments) throws Exception {
        EmbeddedActiveMQ broker = new EmbeddedActiveMQ();
        broker.setConfigResourcePath("broker.xml");
        if (arguments.length == 2) {
            SecurityConfiguration users = new SecurityConfiguration();
            users.addUser(arguments[0], arguments[1]);
            users.addRole(arguments[0], "tests");
            broker.setSecurityManager(new ActiveMQJAASSecurityManager(InVMLoginModule.class.getName(), users));
        }
        broker.start();
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            try {
                broker.stop();
            } catch (Exception error) {
                error.printStackTrace();
            }
        }));
        System.out.println("ARTEMIS READY");
        Thread.currentThread().join();
    }
}
